"""The photographs a training run learns from, and those it is validated on."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Protocol

from sr_quant_cli.data.benchmark import BENCHMARKS, Pair, data_root, pair_up, usual_name
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import picture_files

_SAMPLE_TRAIN = ("astronaut.png", "coffee.png", "rocket.jpg", "motorcycle_left.png")
_SAMPLE_VALIDATION = ("chelsea.png",)


class Selection(Protocol):
    """Photographs that are asked for, as a recipe's ``[data]`` table names them."""

    @property
    def train(self) -> str:
        """Name of a set, or a folder."""

    @property
    def validation(self) -> Sequence[str]:
        """Glob patterns of the files held out; empty: the set's own, else one in fifty."""

    @property
    def lr(self) -> str:
        """``folder``: LR pictures beside HR; ``bicubic``: made; ``auto``: the folder if there."""


@dataclass(frozen=True)
class Photographs:
    """Training and validation pairs, and where they come from."""

    name: str
    train: tuple[Pair, ...]
    validation: tuple[Pair, ...]


def find_photographs(selection: Selection, scale: int, root: Path | None = None) -> Photographs:
    """Find the pictures that a recipe's ``[data]`` table names.

    ``sample`` are photographs that scikit-image carries; ``DIV2K`` and ``Flickr2K`` lie below the
    data root as ``srq data get`` places them; anything else is a folder of pictures, or of ``HR``
    with ``LR_bicubic/X{scale}`` beside it.

    Parameters
    ----------
    root
        Data root; None: ``SRQ_DATA``, else ``./datasets``.

    Raises
    ------
    UsageError
        No pictures are there, or none is left to train or to validate on; or the folder is one of
        the test sets that figures are given on.
    """
    match selection.train.lower():
        case "sample":
            return _sample()
        case "div2k":
            return _div2k(selection, scale, data_root(root) / "DIV2K")
        case "flickr2k":
            folder = data_root(root) / "Flickr2K" / "Flickr2K_HR"
            return _folder(selection, scale, folder, "Flickr2K")
        case _:
            folder = Path(selection.train)
            return _folder(selection, scale, folder, folder.resolve().name)


def is_named_set(train: str) -> bool:
    """Tell whether ``data.train`` names a known set, and not a folder."""
    return train.lower() in ("sample", "div2k", "flickr2k")


def _sample() -> Photographs:
    import skimage

    folder = Path(skimage.__file__).parent / "data"
    return Photographs(
        "sample",
        tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_TRAIN),
        tuple(Pair(Path(name).stem, folder / name, None) for name in _SAMPLE_VALIDATION),
    )


def _div2k(selection: Selection, scale: int, folder: Path) -> Photographs:
    def part(name: str) -> tuple[Pair, ...]:
        lr = folder / f"DIV2K_{name}_LR_bicubic" / f"X{scale}"
        return _pairs(folder / f"DIV2K_{name}_HR", lr, selection)

    train = part("train")
    if selection.validation:
        return _split("DIV2K", train, selection)
    valid = part("valid")
    return Photographs("DIV2K", train, valid)


def _folder(selection: Selection, scale: int, folder: Path, name: str) -> Photographs:
    for part in folder.resolve().parts[-2:]:
        if usual_name(part) in BENCHMARKS:
            raise UsageError(
                f"data.train = {folder}: {usual_name(part)} is a test set; train and validate on "
                "other photographs"
            )
    hr = folder / "HR" if (folder / "HR").is_dir() else folder
    pairs = _pairs(hr, folder / "LR_bicubic" / f"X{scale}", selection)
    return _split(name, pairs, selection)


def _pairs(hr: Path, lr: Path, selection: Selection) -> tuple[Pair, ...]:
    if not hr.is_dir() or not picture_files(hr):
        raise UsageError(
            f"no training pictures in {hr}: get them with 'srq data get DIV2K' (data root: "
            "--data-root, else SRQ_DATA, else ./datasets), name a folder with --data DIR, "
            "or try --data sample"
        )
    if selection.lr == "folder" and not lr.is_dir():
        raise UsageError(f"data.lr = 'folder', but there is no {lr}")
    return pair_up(hr, lr if selection.lr != "bicubic" and lr.is_dir() else None)


def _split(name: str, pairs: tuple[Pair, ...], selection: Selection) -> Photographs:
    if selection.validation:
        held_out = {
            pair for pair in pairs if any(fnmatch(pair.hr.name, p) for p in selection.validation)
        }
        if not held_out:
            raise UsageError(
                f"data.validation = {selection.validation}: no file of {pairs[0].hr.parent} matches"
            )
    else:
        # One in fifty, at most ten, spread over the folder: the same files on every machine.
        count = min(max(len(pairs) // 50, 1), 10)
        held_out = set(pairs[:: max(len(pairs) // count, 1)][:count])
    train = tuple(pair for pair in pairs if pair not in held_out)
    if not train:
        raise UsageError(f"{pairs[0].hr.parent}: no picture is left to train on; add more")
    return Photographs(name, train, tuple(sorted(held_out, key=lambda pair: pair.name)))
