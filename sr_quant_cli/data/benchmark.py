"""Pairs of LR and HR pictures, and the benchmark sets made of them."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.imaging.io import picture_files, read_rgb

BENCHMARKS = ("Set5", "Set14", "B100", "Urban100", "Manga109", "Test2K", "Test4K", "Test8K")
"""Names of the benchmark sets, as the papers write them."""

_ALIASES = {"bsd100": "B100", "bsds100": "B100"}
_SUFFIX = re.compile(r"(_SRF_\d)?(_HR|_LR|_LRBI)?(_?x\d)?$", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """An HR picture and its LR picture; without one, LR is made by bicubic."""

    name: str
    hr: Path
    lr: Path | None

    def load(self, scale: int) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        """LR ``[h, w, 3]`` and HR ``[sh, sw, 3]``, uint8 RGB; HR is cropped to the size of LR.

        Raises
        ------
        UsageError
            A file is missing or damaged, or LR is larger than HR / scale.
        """
        hr = read_rgb(self.hr)
        if self.lr is None:
            lr = downscale(hr, scale)
        else:
            lr = read_rgb(self.lr)
        height, width = lr.shape[0] * scale, lr.shape[1] * scale
        spare = hr.shape[0] - height, hr.shape[1] - width
        if not all(0 <= rest < 2 * scale for rest in spare):
            raise UsageError(
                f"{self.lr} is {lr.shape[1]}x{lr.shape[0]}, which is not 1/{scale} of "
                f"{self.hr} ({hr.shape[1]}x{hr.shape[0]})"
            )
        return lr, hr[:height, :width]


@dataclass(frozen=True)
class BenchmarkSet:
    """A benchmark set at one scale."""

    name: str
    scale: int
    pairs: tuple[Pair, ...]
    lr_origin: Literal["folder", "bicubic"]


def data_root(option: Path | None = None) -> Path:
    """Folder of all data: ``option``, else ``SRQ_DATA``, else ``./datasets``."""
    return option or Path(os.environ.get("SRQ_DATA") or "datasets")


def parse_sets(text: str) -> list[str]:
    """Names of a ``Set5+Set14`` list, in their usual spelling.

    >>> parse_sets("set5+BSD100")
    ['Set5', 'B100']

    Raises
    ------
    UsageError
        A name is no benchmark set.
    """
    spelling = _ALIASES | {name.lower(): name for name in BENCHMARKS}
    names = []
    for part in text.split("+"):
        if part.strip().lower() not in spelling:
            raise unknown("benchmark set", part.strip(), list(BENCHMARKS))
        names.append(spelling[part.strip().lower()])
    return names


def find_set(name: str, scale: int, root: Path) -> BenchmarkSet:
    """Find a benchmark set below the data root.

    Looked for as ``ROOT/benchmark/NAME/HR`` and ``ROOT/NAME/HR``, with ``LR_bicubic/X{scale}``
    beside ``HR``; without that, LR is made by bicubic.

    Raises
    ------
    UsageError
        The set is not there, or an LR picture of it is missing.
    """
    folders = [
        parent / spelled
        for parent in (root / "benchmark", root)
        for spelled in [name, *(("BSD100", "BSDS100") if name == "B100" else ())]
    ]
    for folder in folders:
        if (folder / "HR").is_dir():
            lr = folder / "LR_bicubic" / f"X{scale}"
            pairs = pair_up(folder / "HR", lr if lr.is_dir() else None)
            return BenchmarkSet(name, scale, pairs, "folder" if lr.is_dir() else "bicubic")
    looked = ", ".join(str(folder / "HR") for folder in folders)
    raise UsageError(
        f"benchmark set {name} is not there: looked for {looked}; get it with "
        f"'srq data get {name}', or name the data root by --data-root or SRQ_DATA"
    )


def pair_up(hr: Path, lr: Path | None) -> tuple[Pair, ...]:
    """Pair the pictures of two folders by name, sorted.

    ``baby.png`` goes with ``babyx4.png``, ``baby.png`` or ``baby_LRBI_x4.png``;
    ``img_001_SRF_4_HR.png`` with ``img_001_SRF_4_LR.png``.

    Raises
    ------
    UsageError
        There are no pictures, or one of HR has no partner.
    """
    originals = picture_files(hr)
    if not originals:
        raise UsageError(f"no pictures in {hr}")
    if lr is None:
        return tuple(Pair(_stem(path), path, None) for path in originals)
    partners = {_stem(path): path for path in picture_files(lr)}
    missing = [path.name for path in originals if _stem(path) not in partners]
    if missing:
        raise UsageError(f"{lr} has no LR picture of {', '.join(missing[:5])}")
    return tuple(Pair(_stem(path), path, partners[_stem(path)]) for path in originals)


def _stem(path: Path) -> str:
    return _SUFFIX.sub("", path.stem)
