"""Training and validation photographs."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from sr_quant_cli.data.benchmark import BENCHMARKS, Pair, data_root, pair_up, usual_name
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import picture_files

_SAMPLE_TRAIN = ("astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
_SAMPLE_VALIDATION = ("chelsea.png",)


LrSource = Literal["auto", "bicubic", "folder"]
"""LR pictures: from the folder beside HR, made by bicubic, or ``auto``: the folder if it exists."""


@dataclass(frozen=True)
class Photographs:
    """Training and validation pairs, and the name of their set or folder."""

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]


def find_photographs(
    train: str,
    scale: int,
    *,
    validation: Sequence[str] = (),
    lr: LrSource = "auto",
    root: Path | None = None,
) -> Photographs:
    """Find the photographs of a set or folder, and split off those to validate on.

    Parameters
    ----------
    train
        ``sample`` (photographs that scikit-image carries), ``DIV2K`` or ``Flickr2K`` (below the
        data root, as ``srq data get`` lays them out), or a folder of pictures, or one with ``HR``
        and ``LR_bicubic/X{scale}`` in it.
    scale
        Factor between LR and HR.
    validation
        Glob patterns of the files held out; empty: the set's own validation part, else one
        picture in fifty.
    lr
        Origin of the LR pictures.
    root
        Data root; None: ``SRQ_DATA``, else ``./datasets``.

    Raises
    ------
    UsageError
        There are no pictures, or none is left to train or to validate on; or the folder is a test
        set that results are reported on.
    """
    match train.lower():
        case "sample":
            return _sample()
        case "div2k":
            return _div2k(data_root(root) / "DIV2K", scale, validation, lr)
        case "flickr2k":
            folder = data_root(root) / "Flickr2K" / "Flickr2K_HR"
            return _folder(folder, "Flickr2K", scale, validation, lr)
        case _:
            folder = Path(train)
            return _folder(folder, folder.resolve().name, scale, validation, lr)


def is_named_set(train: str) -> bool:
    """Tell if ``train`` is the name of a known set rather than a folder."""
    return train.lower() in ("sample", "div2k", "flickr2k")


def _sample() -> Photographs:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return Photographs(
        "sample",
        tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_TRAIN),
        tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_VALIDATION),
    )


def _div2k(folder: Path, scale: int, validation: Sequence[str], lr: LrSource) -> Photographs:
    def part(name: str) -> tuple[Pair, ...]:
        lr_folder = folder / f"DIV2K_{name}_LR_bicubic" / f"X{scale}"
        return _pairs(folder / f"DIV2K_{name}_HR", lr_folder, lr)

    train = part("train")
    if validation:
        return _split("DIV2K", train, validation)
    return Photographs("DIV2K", train, part("valid"))


def _folder(
    folder: Path, name: str, scale: int, validation: Sequence[str], lr: LrSource
) -> Photographs:
    for part in folder.resolve().parts[-2:]:
        if usual_name(part) in BENCHMARKS:
            raise UsageError(
                f"data.train = {folder}: {usual_name(part)} is a test set; train and validate on "
                "other photographs"
            )
    hr = folder / "HR" if (folder / "HR").is_dir() else folder
    pairs = _pairs(hr, folder / "LR_bicubic" / f"X{scale}", lr)
    return _split(name, pairs, validation)


def _pairs(hr: Path, lr_folder: Path, lr: LrSource) -> tuple[Pair, ...]:
    if not hr.is_dir() or not picture_files(hr):
        raise UsageError(
            f"no training pictures in {hr}: get them with 'srq data get DIV2K' (data root: "
            "`data_root`, else SRQ_DATA, else ./datasets), name a folder with `data`, "
            "or try `data` sample"
        )
    if lr == "folder" and not lr_folder.is_dir():
        raise UsageError(f"data.lr = 'folder', but there is no {lr_folder}")
    return pair_up(hr, lr_folder if lr != "bicubic" and lr_folder.is_dir() else None)


def _split(name: str, pairs: tuple[Pair, ...], validation: Sequence[str]) -> Photographs:
    if validation:
        held_out = {pair for pair in pairs if any(fnmatch(pair.hr.name, p) for p in validation)}
        if not held_out:
            raise UsageError(
                f"data.validation = {list(validation)}: no file of {pairs[0].hr.parent} matches"
            )
    else:
        # One in fifty, at most ten, spread evenly: the same files on every machine.
        count = min(max(len(pairs) // 50, 1), 10)
        held_out = set(pairs[:: max(len(pairs) // count, 1)][:count])
    train = tuple(pair for pair in pairs if pair not in held_out)
    if not train:
        raise UsageError(f"{pairs[0].hr.parent}: no picture is left to train on; add more")
    return Photographs(name, train, tuple(sorted(held_out, key=lambda pair: pair.name)))
