"""Benchmark sets: where they lie, how their files are called, and their pairs of LR and HR."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.imaging.formats import picture_files
from sr_quant_cli.imaging.io import read_rgb

BENCHMARKS: dict[str, tuple[str, ...]] = {
    "Set5": (),
    "Set14": (),
    "B100": ("BSD100", "BSDS100"),
    "Urban100": (),
    "Manga109": (),
    "Test2K": (),
    "Test4K": (),
    "Test8K": (),
}
"""The sets of the papers, each with its other names."""

_REGISTERED = ("Manga109",)  # no automatic download
_MADE = ("Test2K", "Test4K", "Test8K")  # from DIV8K
_HR_SUFFIX = re.compile(r"(_SRF_\d+_HR|_HR_x\d+)$")
_LR_SUFFIX = re.compile(r"(_SRF_\d+_LR|_LRBI_x\d+|x\d+)$")


@dataclass(frozen=True)
class Pair:
    """One picture of a set.

    Attributes
    ----------
    name
        Name of the picture without the suffixes of its pack, as ``baby``.
    hr
        HR file.
    lr
        LR file, or None where LR is to be made from HR.
    """

    name: str
    hr: Path
    lr: Path | None

    def load(self, scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """Read the pair; grey pictures are replicated to three channels.

        Parameters
        ----------
        scale
            Factor between the two.

        Returns
        -------
        lr
            uint8 ``[h, w, 3]``, 0..255: the file, or HR shrunk by our bicubic.
        hr
            uint8 ``[h * scale, w * scale, 3]``: HR without its last rows and columns where its size
            is no multiple of ``scale``.

        Raises
        ------
        UsageError
            A file cannot be read, or the sizes do not belong together.
        """
        hr = read_rgb(self.hr)
        height, width = hr.shape[0] // scale, hr.shape[1] // scale
        if min(height, width) < 1:
            raise UsageError(f"{self.hr}: {_size(hr)} is too small for x{scale}")
        hr = hr[: height * scale, : width * scale]
        lr = downscale(hr, scale) if self.lr is None else read_rgb(self.lr)
        if lr.shape[:2] != (height, width):
            raise UsageError(
                f"{self.lr}: {_size(lr)} is not 1/{scale} of {self.hr} ({width}x{height} expected)"
            )
        return lr, hr


@dataclass(frozen=True)
class BenchmarkSet:
    """The pairs of one set at one scale.

    Attributes
    ----------
    name
        Name of the set, as in :data:`BENCHMARKS` where it is one of those.
    scale
        Factor between LR and HR.
    pairs
        Sorted by name, at least one.
    lr_origin
        ``folder`` where LR files were found, ``bicubic`` where LR is made from HR. Reports say so.
    """

    name: str
    scale: int
    pairs: tuple[Pair, ...]
    lr_origin: Literal["folder", "bicubic"]


def parse_sets(text: str) -> list[str]:
    """Split ``Set5+Set14`` into names, each once; other names of a set become its usual one.

    Names of no known set are kept: they may be folders of the user.

    Raises
    ------
    UsageError
        A name is empty.

    Examples
    --------
    >>> parse_sets("set5+BSD100")
    ['Set5', 'B100']
    """
    names = [part.strip() for part in text.split("+")]
    if "" in names:
        raise UsageError(f"sets '{text}': an empty name; write them as Set5+Set14")
    return list(dict.fromkeys(usual_name(name) for name in names))


def data_root(option: Path | None) -> Path:
    """Choose the folder of data sets: ``option``, else ``$SRQ_DATA``, else ``datasets``."""
    return option or Path(os.environ.get("SRQ_DATA") or "datasets")


def find_set(name: str, scale: int, root: Path) -> BenchmarkSet:
    """Find the pictures of a set under ``root``.

    The set lies in ``root/benchmark/NAME`` or ``root/NAME``: HR in ``HR``, or in the set's folder
    itself; LR in ``LR_bicubic/X{scale}``, or made from HR where that is missing.

    Parameters
    ----------
    name
        Any name of a known set, in any case, or of a folder of the user.
    scale
        Factor between LR and HR.
    root
        As from :func:`data_root`.

    Returns
    -------
    BenchmarkSet
        Its files are found but not read yet.

    Raises
    ------
    UsageError
        The set is not there, or its files do not pair up (:func:`pair_up`).
    """
    name = usual_name(name)
    places = [
        folder / spelling
        for folder in (root / "benchmark", root)
        for spelling in (name, *BENCHMARKS.get(name, ()))
    ]
    home = next((place for place in places if place.is_dir()), None)
    if home is None:
        raise _missing(name, places)
    lr = home / "LR_bicubic" / f"X{scale}"
    pairs = pair_up(home / "HR" if (home / "HR").is_dir() else home, lr if lr.is_dir() else None)
    return BenchmarkSet(name, scale, pairs, "folder" if lr.is_dir() else "bicubic")


def pair_up(hr: Path, lr: Path | None) -> tuple[Pair, ...]:
    """Pair the pictures of two folders by name, sorted; without ``lr``, LR will be made.

    HR may be called ``baby``, ``img_001_SRF_4_HR`` or ``baby_HR_x4``; LR ``baby``, ``babyx4``,
    ``img_001_SRF_4_LR`` or ``baby_LRBI_x4``.

    Raises
    ------
    UsageError
        There is no HR, two HR files have one name, or ``lr`` lacks a picture.
    """
    originals: dict[str, Path] = {}
    for path in picture_files(hr):
        name = _HR_SUFFIX.sub("", path.stem)
        if name in originals:
            raise UsageError(f"{path} and {originals[name].name} are both '{name}': remove one")
        originals[name] = path
    if not originals:
        raise UsageError(f"no pictures in {hr}")
    if lr is None:
        return tuple(Pair(name, path, None) for name, path in sorted(originals.items()))
    files = picture_files(lr)
    # A whole name goes first: HR may itself be called streetx2.
    partners = {_LR_SUFFIX.sub("", path.stem): path for path in files}
    partners |= {path.stem: path for path in files}
    missing = sorted(originals.keys() - partners.keys())
    if missing:
        raise UsageError(f"{lr}: no LR of {', '.join(missing[:5])}, {len(missing)} in all")
    return tuple(Pair(name, path, partners[name]) for name, path in sorted(originals.items()))


def usual_name(name: str) -> str:
    """Spell a set as in :data:`BENCHMARKS`, whatever its case or other name; keep unknown names.

    >>> usual_name("bsds100"), usual_name("holiday")
    ('B100', 'holiday')
    """
    for usual, others in BENCHMARKS.items():
        if name.lower() in (spelling.lower() for spelling in (usual, *others)):
            return usual
    return name


def _missing(name: str, places: list[Path]) -> UsageError:
    looked = f"looked at {', '.join(str(place) for place in places)}"
    if name not in BENCHMARKS:
        return UsageError(f"{unknown('benchmark set', name, list(BENCHMARKS))}; {looked}")
    if name in _REGISTERED:
        how = f"it needs registration with its makers: place its pictures in {places[0] / 'HR'}"
    elif name in _MADE:
        how = f"make it with 'srq data make {name}' from the training pictures of DIV8K"
    else:
        how = f"get it with 'srq data get {name}', or name its root by `data_root` or SRQ_DATA"
    return UsageError(f"benchmark set {name} is not there: {looked}; {how}")


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"
