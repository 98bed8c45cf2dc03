"""Test2K, Test4K and Test8K, made from training pictures of DIV8K.

There is no canonical set of files: the papers that use them [1]_ say which pictures they took, and
that these were "downsampled to 2K and 4K resolution", but not how. Here the bicubic filter of the
benchmarks reduces the longer side to 2048 or 4096 pixels, and the result is cropped at the bottom
and right to multiples of 12, so that x2, x3 and x4 divide both sides.

References
----------
.. [1] C. Hong, S. Baik, H. Kim, S. Nah, K. M. Lee, "CADyQ: Content-Aware Dynamic Quantization for
       Image Super-Resolution", ECCV 2022.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.data.bicubic import resize
from sr_quant_cli.errors import FailedError, UsageError, unknown
from sr_quant_cli.imaging.formats import picture_files
from sr_quant_cli.imaging.io import decodes, read_rgb, write_rgb
from sr_quant_cli.system.reporting import track, warn

MULTIPLE = 12
"""Common divisor of both sides of the pictures."""


@dataclass(frozen=True)
class Selection:
    """Range of DIV8K's training pictures, and the longer side they are reduced to."""

    first: int
    last: int
    longest: int | None = None

    @property
    def names(self) -> list[str]:
        """File names without suffix."""
        return [f"{number:04}" for number in range(self.first, self.last + 1)]


SELECTIONS = {
    "Test2K": Selection(1201, 1300, 2048),
    "Test4K": Selection(1301, 1400, 4096),
    "Test8K": Selection(1401, 1500),
}


@dataclass(frozen=True)
class Outcome:
    """Result of making a set: counts of pictures made and kept, and names of the others."""

    folder: str
    made: int
    kept: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]


def make(name: str, source: Path, root: Path) -> Outcome:
    """Make the HR pictures of a set below ``root``; intact ones are kept.

    Parameters
    ----------
    name
        Key of :data:`SELECTIONS`.
    source
        Folder of DIV8K's training pictures: ``1201.png`` and so on, or .jpg, .webp.

    Raises
    ------
    UsageError
        There is no such set or folder, or the folder has none of the pictures or two of one name.
    """
    if name not in SELECTIONS:
        raise unknown("set made from DIV8K", name, list(SELECTIONS))
    if not source.is_dir():
        raise UsageError("no such folder", field="source", value=source)
    selection = SELECTIONS[name]
    files: dict[str, Path] = {}
    for path in picture_files(source):
        if path.stem in files:
            other = files[path.stem].name
            raise UsageError(f"{path} and {other} are both picture {path.stem}: remove one")
        files[path.stem] = path
    present = [entry for entry in selection.names if entry in files]
    if not present:
        wanted = f"{selection.first} to {selection.last}"
        problem = f"none of the pictures {wanted} of DIV8K is there"
        raise UsageError(problem, field="source", value=source)
    folder = root / "benchmark" / name / "HR"
    made, damaged = 0, []
    for entry in track(present, len(present), "picture", name):
        target = folder / f"{entry}.png"
        if target.is_file() and decodes(target):
            continue
        try:
            write_rgb(target, prepare(read_rgb(files[entry]), selection.longest))
        except UsageError as error:
            warn(str(error))
            damaged.append(entry)
        else:
            made += 1
    missing = tuple(entry for entry in selection.names if entry not in files)
    kept = len(present) - made - len(damaged)
    return Outcome(str(folder), made, kept, missing, tuple(damaged))


def prepare(picture: NDArray[np.uint8], longest: int | None) -> NDArray[np.uint8]:
    """Reduce the longer side to ``longest`` pixels and crop to multiples of 12.

    Smaller pictures are only cropped.

    Raises
    ------
    UsageError
        Nothing is left of the picture.

    Examples
    --------
    >>> prepare(np.zeros((60, 130, 3), np.uint8), 65).shape
    (24, 60, 3)
    """
    height, width, _ = picture.shape
    if longest is not None and max(height, width) > longest:
        factor = longest / max(height, width)
        picture = resize(picture, max(round(height * factor), 1), max(round(width * factor), 1))
    height, width = (side // MULTIPLE * MULTIPLE for side in picture.shape[:2])
    if min(height, width) == 0:
        size = f"{picture.shape[1]}x{picture.shape[0]}"
        raise UsageError(f"a picture of {size} has less than {MULTIPLE} pixels on a side")
    return picture[:height, :width]


def raise_missing(outcome: Outcome) -> None:
    """Raise if pictures could not be made.

    Raises
    ------
    FailedError
        Pictures are missing or damaged; the message names them.
    """
    wrong = {"missing": outcome.missing, "not readable": outcome.damaged}
    parts = [f"{len(names)} {how}: {_ranges(names)}" for how, names in wrong.items() if names]
    if parts:
        raise FailedError(f"{outcome.folder} is incomplete; of DIV8K's pictures {'; '.join(parts)}")


def _ranges(names: tuple[str, ...]) -> str:
    """Join numbers, with consecutive ones as a range.

    >>> _ranges(("1201", "1203", "1204", "1205"))
    '1201, 1203-1205'
    """
    runs: list[list[int]] = []
    for number in map(int, names):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
