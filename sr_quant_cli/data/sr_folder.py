"""Folders of pictures that were upscaled elsewhere, with the file names of other projects.

Names that begin with that of a picture are its results: EDSR-PyTorch writes ``baby_x4_SR.png`` into
``results-Set5``, BasicSR ``baby_NAME.png`` into ``Set5``, 2DQuant ``baby_31.2345_.png``.
"""

import re
from functools import cache
from pathlib import Path

from sr_quant_cli.data.benchmark import BENCHMARKS, BenchmarkSet, Pair
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import picture_files

_COPIES = re.compile(r"_(LR|HR)$")
"""Endings of copies of LR and HR that projects write beside their results."""


class SrFolder:
    """A folder with the results of one or several sets.

    Raises
    ------
    UsageError
        There is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UsageError("no such folder", field="sr_dir", value=folder)
        self.folder = folder
        self._files_of = cache(picture_files)

    def find(self, bench: BenchmarkSet, pair: Pair) -> Path:
        """Find the result of a picture.

        It is called as the picture, with nothing, ``_x4``, ``x4`` or ``_SR`` behind (x4), or it is
        the only file that begins with the picture's name and no other picture's.

        Raises
        ------
        UsageError
            There is no such file, or more than one.
        """
        place = self._place_of(bench)
        files = {path.stem: path for path in self._files_of(place)}
        stems = _stems(pair)
        for ending in ("", f"_x{bench.scale}", f"x{bench.scale}", "_SR"):
            for stem in stems:
                if stem + ending in files:
                    return files[stem + ending]
        others = [stem for other in bench.pairs if other != pair for stem in _stems(other)]
        found = [
            path
            for stem, path in files.items()
            if not _COPIES.search(stem)
            and not _names_another_scale(stem, stems, bench.scale)
            and (own := _longest_beginning(stem, stems))
            and own > _longest_beginning(stem, others)
        ]
        if len(found) == 1:
            return found[0]
        if found:
            several = ", ".join(path.name for path in found[:4])
            raise UsageError(
                f"{place} has several pictures of {pair.name} ({bench.name}): {several}; keep one",
                field="sr_dir",
            )
        raise UsageError(
            f"{place} has no picture of {pair.name} ({bench.name}): no file at x{bench.scale} "
            f"begins with {' or '.join(stems)}",
            field="sr_dir",
        )

    def _place_of(self, bench: BenchmarkSet) -> Path:
        for name in (bench.name, *BENCHMARKS.get(bench.name, ())):
            for place in (self.folder / name, self.folder / f"results-{name}"):
                if place.is_dir():
                    return place
        return self.folder


def _stems(pair: Pair) -> tuple[str, ...]:
    """Names of a picture: its own, its HR file's, its LR file's."""
    return tuple(dict.fromkeys([pair.name, pair.hr.stem, (pair.lr or pair.hr).stem]))


def _longest_beginning(name: str, stems: tuple[str, ...] | list[str]) -> int:
    """Length of the longest stem that a name begins with, up to the end of a word; 0: none.

    >>> [_longest_beginning(name, ("img_1",)) for name in ("img_1_SR", "img_1x4", "img_10")]
    [5, 5, 0]
    """
    fitting = [s for s in stems if re.match(rf"{re.escape(s)}(?:x[0-9]|(?![^\W_]))", name)]
    return max(map(len, fitting), default=0)


def _names_another_scale(name: str, stems: tuple[str, ...], scale: int) -> bool:
    """Tell if what follows a picture's name has a scale such as ``x2``, and it is another one."""
    rest = name[_longest_beginning(name, stems) :]
    scales = re.findall(r"(?<![^\W_])[xX]([2348])(?![^\W_])", rest)
    return bool(scales) and str(scale) not in scales
