"""Training and validation photographs."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from sr_quant_cli.data.benchmark import (
    BENCHMARKS,
    Pair,
    data_root,
    find_hr,
    find_lr,
    pair_up,
    usual_name,
)
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import picture_files

_SAMPLE_TRAIN = ("astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
_SAMPLE_VALIDATION = ("chelsea.png",)


LrSource = Literal["auto", "bicubic", "folder"]
"""LR pictures: from the folder beside HR, made by bicubic, or ``auto``: the folder if it exists."""


SETS = {name.lower(): name for name in ("sample", "DIV2K", "Flickr2K", "DF2K")}
"""Sets that are found by name, by their names in lower case."""


@dataclass(frozen=True)
class Photographs:
    """Training and validation pairs, and the name of their set or folder."""

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]

    @property
    def lr_origin(self) -> str:
        """Origin of the LR pictures in words, for reports."""
        made = sum(pair.lr is None for pair in self.train)
        if made == len(self.train):
            return "LR made by bicubic"
        return f"LR of {made} made by bicubic, the others from files" if made else "LR from files"


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
        Names of ``SETS``, joined by ``+``, or a folder. ``sample`` is photographs that scikit-image
        carries; ``DIV2K`` and ``Flickr2K`` are below the data root, as ``srq data get`` lays them
        out; ``DF2K`` is the folder of that name there, else both of them. A folder is laid out as a
        benchmark set.
    scale
        Factor between LR and HR.
    validation
        Glob patterns of the files held out; empty: the sets' own validation parts, else one
        picture in fifty. ``sample`` alone always has its own.
    lr
        Origin of the LR pictures.
    root
        Data root; None: ``SRQ_DATA``, else ``./datasets``.

    Raises
    ------
    UsageError
        There is no such folder or set, there are no pictures, or none is left to train or to
        validate on; or the folder is a test set that results are reported on.
    """
    names = _set_names(train)
    if not names:
        folder = Path(train)
        _refuse_test_sets(folder)
        if not folder.is_dir():
            raise UsageError(
                f"no training pictures in {folder}: there is no such folder; name one with `data`, "
                f"or a set: {', '.join(SETS.values())}"
            )
        home = folder.resolve()
        home = home.parent if home.name == "HR" else home
        return _split(home.name, _folder(home, scale, lr), validation)
    if names == ["sample"]:
        return _sample()
    found = _joined([_named(name, scale, lr, data_root(root)) for name in names])
    if validation or not found.validation:
        return _split(found.name, found.train, validation)
    return found


def is_named_set(train: str) -> bool:
    """Tell if ``train`` names known sets rather than a folder."""
    return bool(_set_names(train))


def _set_names(train: str) -> list[str]:
    """Split the names of sets, each in its usual spelling; empty: it is a folder."""
    parts = [part.strip().lower() for part in train.split("+")]
    return list(dict.fromkeys(SETS[p] for p in parts)) if all(p in SETS for p in parts) else []


def _named(name: str, scale: int, lr: LrSource, root: Path) -> Photographs:
    """Find one set; its validation part is empty if it has none of its own."""
    match name:
        case "sample":
            return _sample()
        case "DIV2K":
            return _div2k(root / name, scale, lr)
        case "DF2K" if not (root / name).is_dir():
            both = [_named(part, scale, lr, root) for part in ("DIV2K", "Flickr2K")]
            return replace(_joined(both), name=name)
        case "DF2K":
            return Photographs(name, _folder(root / name, scale, lr), ())
        case _:
            hr = root / name / f"{name}_HR"
            lr_folder = root / name / f"{name}_LR_bicubic" / f"X{scale}"
            return Photographs(name, _pairs(hr, lr_folder, lr, name), ())


def _joined(parts: Sequence[Photographs]) -> Photographs:
    return Photographs(
        "+".join(part.name for part in parts),
        tuple(pair for part in parts for pair in part.train),
        tuple(pair for part in parts for pair in part.validation),
    )


def _sample() -> Photographs:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return Photographs(
        "sample",
        tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_TRAIN),
        tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_VALIDATION),
    )


def _div2k(folder: Path, scale: int, lr: LrSource) -> Photographs:
    def part(name: str) -> tuple[Pair, ...]:
        lr_folder = folder / f"DIV2K_{name}_LR_bicubic" / f"X{scale}"
        return _pairs(folder / f"DIV2K_{name}_HR", lr_folder, lr, "DIV2K")

    return Photographs("DIV2K", part("train"), part("valid"))


def _refuse_test_sets(folder: Path) -> None:
    for part in folder.resolve().parts[-2:]:
        if usual_name(part) in BENCHMARKS:
            raise UsageError(
                f"data.train = {folder}: {usual_name(part)} is a test set; train and validate on "
                "other photographs"
            )


def _folder(home: Path, scale: int, lr: LrSource) -> tuple[Pair, ...]:
    """Pair up the pictures of a folder that is laid out as a benchmark set."""
    hr = find_hr(home, scale) if home.is_dir() else home
    found = find_lr(home, hr, scale) if lr != "bicubic" and hr.is_dir() else None
    return _pairs(hr, found or home / "LR_bicubic" / f"X{scale}", lr, "DIV2K")


def _pairs(hr: Path, lr_folder: Path, lr: LrSource, offered: str) -> tuple[Pair, ...]:
    """Pair up two folders.

    Parameters
    ----------
    offered
        Set that a message offers to download.
    """
    if not hr.is_dir() or not picture_files(hr):
        raise UsageError(
            f"no training pictures in {hr}: get them with 'srq data get {offered}' (data root: "
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
