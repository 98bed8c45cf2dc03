"""Catalog of data sets: downloads, and instructions for sets that need registration."""

from dataclasses import dataclass, replace

from sr_quant_cli.data.benchmark import usual_name
from sr_quant_cli.data.div8k import SELECTIONS, Selection
from sr_quant_cli.errors import unknown

_SNU = "https://cv.snu.ac.kr/research/EDSR"
_ETH = "https://data.vision.ee.ethz.ch/cvl/DIV2K"


@dataclass(frozen=True)
class Part:
    """Folder of pictures below the data root, and the number of pictures in it.

    An optional part may be absent altogether: LR pictures, which srq can make.
    """

    folder: str
    pictures: int
    optional: bool = False


@dataclass(frozen=True)
class Archive:
    """File to download, and the folder below the data root to unpack it into."""

    url: str
    md5: str
    into: str
    parts: tuple[Part, ...]

    @property
    def name(self) -> str:
        """File name, the last part of the address."""
        return self.url.rpartition("/")[2]


@dataclass(frozen=True)
class DataSet:
    """Data set: archives to download, or instructions if it cannot be downloaded."""

    name: str
    description: str
    archives: tuple[Archive, ...] = ()
    parts: tuple[Part, ...] = ()
    instructions: str = ""
    """steps for the user, for sets that need registration; continues "NAME ..." """


def _benchmark(name: str, pictures: int) -> tuple[Part, ...]:
    home = f"benchmark/{name}"
    lr = (Part(f"{home}/LR_bicubic/X{scale}", pictures, optional=True) for scale in (2, 3, 4))
    return Part(f"{home}/HR", pictures), *lr


_PACK = {"Set5": 5, "Set14": 14, "B100": 100, "Urban100": 100}
_BENCHMARK = Archive(
    f"{_SNU}/benchmark.tar",
    "4ace41d33c2384b97e6b320cd0afd6ba",
    ".",
    tuple(part for name, count in _PACK.items() for part in _benchmark(name, count)),
)


def _div2k(stem: str, md5: str, folder: str, pictures: int) -> Archive:
    optional = "_LR_" in stem
    part = Part(f"DIV2K/{folder}", pictures, optional)
    return Archive(f"{_ETH}/{stem}.zip", md5, "DIV2K", (part,))


def _div2k_lr(split: str, pictures: int, md5s: tuple[str, str, str]) -> tuple[Archive, ...]:
    name = f"DIV2K_{split}_LR_bicubic"
    return tuple(
        _div2k(f"{name}_X{scale}", md5, f"{name}/X{scale}", pictures)
        for scale, md5 in zip((2, 3, 4), md5s, strict=True)
    )


_DIV2K = (
    _div2k("DIV2K_train_HR", "bdc2d9338d4e574fe81bf7d158758658", "DIV2K_train_HR", 800),
    _div2k("DIV2K_valid_HR", "9fcdda83005c5e5997799b69f955ff88", "DIV2K_valid_HR", 100),
    *_div2k_lr(
        "train",
        800,
        (
            "9a637d2ef4db0d0a81182be37fb00692",
            "ad80b9fe40c049a07a8a6c51bfab3b6d",
            "76c43ec4155851901ebbe8339846d93d",
        ),
    ),
    *_div2k_lr(
        "valid",
        100,
        (
            "1512c9a3f7bde2a1a21a73044e46b9cb",
            "18b1d310f9f88c13618c287927b29898",
            "21962de700c8d368c6ff83314480eff0",
        ),
    ),
)


def _alone(archive: Archive) -> DataSet:
    # LR pictures that are requested by name are not optional.
    parts = tuple(replace(part, optional=False) for part in archive.parts)
    name = archive.name.removesuffix(".zip")
    return DataSet(name, "part of DIV2K", (replace(archive, parts=parts),), parts)


_FLICKR2K = Archive(
    f"{_SNU}/Flickr2K.tar",
    "5d3f39443d5e9489bff8963f8f26cb03",
    ".",
    (Part("Flickr2K/Flickr2K_HR", 2650),),
)


def _by_hand(name: str, description: str, part: Part, makers: str, which: str) -> DataSet:
    how = f"needs registration {makers}; put its {which} into {{root}}/{part.folder}"
    return DataSet(name, description, parts=(part,), instructions=how)


_DIV8K = "for DIV8K (NTIRE 2020 challenge on perceptual extreme super-resolution)"


def _from_div8k(name: str, selection: Selection) -> DataSet:
    shrunk = "" if selection.longest is None else f", shrunk to {selection.longest} pixels"
    which = f"DIV8K pictures {selection.first} to {selection.last}{shrunk}"
    how = (
        f"is made by 'srq data make {name}' from the training pictures of DIV8K, which "
        "need registration (NTIRE 2020 challenge on perceptual extreme super-resolution)"
    )
    part = Part(f"benchmark/{name}/HR", len(selection.names))
    return DataSet(name, which, parts=(part,), instructions=how)


DATASETS = {
    dataset.name: dataset
    for dataset in (
        DataSet(
            "benchmark",
            "Set5, Set14, B100 and Urban100 in one pack",
            (_BENCHMARK,),
            _BENCHMARK.parts,
        ),
        *(
            DataSet(name, "in the benchmark pack", (_BENCHMARK,), _benchmark(name, count))
            for name, count in _PACK.items()
        ),
        DataSet(
            "DIV2K",
            "800 training and 100 validation photographs",
            _DIV2K,
            tuple(part for archive in _DIV2K for part in archive.parts),
        ),
        *map(_alone, _DIV2K),
        DataSet("Flickr2K", "2650 photographs, 11 GB", (_FLICKR2K,), _FLICKR2K.parts),
        _by_hand(
            "Manga109",
            "109 manga pages",
            Part("benchmark/Manga109/HR", 109),
            "at manga109.org",
            "109 test pages",
        ),
        _by_hand(
            "DIV8K",
            "1500 training photographs of up to 8K",
            Part("DIV8K/DIV8K_train_HR", 1500),
            _DIV8K,
            "training pictures 1 to 1500",
        ),
        *(_from_div8k(name, selection) for name, selection in SELECTIONS.items()),
    )
}
"""All data sets by name; md5 sums as published in torchsr 1.0.4."""


def get_dataset(name: str) -> DataSet:
    """Look up a data set by name, in any case.

    Raises
    ------
    UsageError
        There is no data set of that name.
    """
    spelling = {known.lower(): known for known in DATASETS}
    found = spelling.get(usual_name(name).lower())
    if found is None:
        raise unknown("data set", name, list(DATASETS))
    return DATASETS[found]
