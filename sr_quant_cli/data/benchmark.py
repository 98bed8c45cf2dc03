"""Benchmark sets: their folders, file names, and pairs of LR and HR images."""

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
from sr_quant_cli.imaging.io import open_picture, read_rgb
from sr_quant_cli.system.reporting import note

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
"""Benchmark sets of the literature, each with its alternative names."""

VALIDATION = "DIV2K"
"""Set whose validation part, 0801 to 0900, can be measured on like a benchmark set."""

HR_FOLDERS = ("HR", "GTmod12", "image_SRF_{scale}")
"""Subfolders of HR pictures: EDSR-PyTorch's, BasicSR's, SelfExSR's."""

LR_FOLDERS = ("LR_bicubic/X{scale}", "LRbicx{scale}", "LR/X{scale}", "LR/x{scale}")
"""Subfolders of LR pictures of one scale."""

_REGISTERED = ("Manga109",)  # no automatic download
_MADE = ("Test2K", "Test4K", "Test8K")  # from DIV8K
_SELFEXSR = re.compile(r"_SRF_\d+_(HR|LR)$")
_HR_SUFFIX = re.compile(r"(_SRF_\d+_HR|_HR_x\d+)$")
_LR_SUFFIX = re.compile(r"(_SRF_\d+_LR|_LRBI_x\d+|x\d+)$")


@dataclass(frozen=True)
class Pair:
    """One picture of a set.

    Attributes
    ----------
    name
        Name of the picture without the suffix of its collection, such as ``baby``.
    hr
        HR file.
    lr
        LR file; None: LR is made from HR.
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
            uint8 ``[h, w, 3]``, 0..255: the file, or HR downscaled by :func:`downscale`.
        hr
            uint8 ``[h * scale, w * scale, 3]``: HR, cropped at the bottom and right to a multiple
            of ``scale``.

        Raises
        ------
        UsageError
            A file cannot be read, or the two sizes do not match.
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
        Name of the set, spelled as in :data:`BENCHMARKS` if it is listed there.
    scale
        Factor between LR and HR.
    pairs
        Sorted by name, at least one.
    lr_origin
        ``folder`` if LR files were found, ``bicubic`` if LR is made from HR; shown in reports.
    """

    name: str
    scale: int
    pairs: tuple[Pair, ...]
    lr_origin: Literal["folder", "bicubic"]


def parse_sets(text: str) -> list[str]:
    """Split ``Set5+Set14`` into unique names, each in its usual spelling.

    Unknown names are kept, as they may be folders of the user.

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
    """Return the folder of data sets: ``option``, else ``$SRQ_DATA``, else ``datasets``."""
    return option or Path(os.environ.get("SRQ_DATA") or "datasets")


def find_set(name: str, scale: int, root: Path) -> BenchmarkSet:
    """Find the pictures of a set under ``root``.

    A set is the folder ``root/benchmark/NAME`` or ``root/NAME``. HR is in one of its
    ``HR_FOLDERS`` or in the folder itself. LR is found by ``find_lr``, or made from HR if there is
    none. ``DIV2K`` is the validation part of ``root/DIV2K``.

    Parameters
    ----------
    name
        Any name of a known set, in any case, or a folder of the user.
    scale
        Factor between LR and HR.
    root
        Folder of data sets, see :func:`data_root`.

    Returns
    -------
    BenchmarkSet
        Files that were found but not yet read.

    Raises
    ------
    UsageError
        The set does not exist, or its files do not pair up (:func:`pair_up`).
    """
    name = usual_name(name)
    if name == VALIDATION:
        return _validation_part(root / name, scale)
    places = [
        folder / spelling
        for folder in (root / "benchmark", root)
        for spelling in (name, *BENCHMARKS.get(name, ()))
    ]
    home = next((place for place in places if place.is_dir()), None)
    if home is None:
        raise _missing(name, places)
    hr = find_hr(home, scale)
    if not picture_files(hr):
        layouts = ", ".join(HR_FOLDERS).format(scale=scale)
        raise UsageError(f"no pictures in {hr}; HR belongs there, or in its subfolder {layouts}")
    return _benchmark(name, scale, hr, find_lr(home, hr, scale))


def find_hr(home: Path, scale: int) -> Path:
    """Find the folder of HR pictures in that of a set: a subfolder, else the folder itself."""
    named = (home / folder.format(scale=scale) for folder in HR_FOLDERS)
    return next((folder for folder in named if folder.is_dir()), home)


def find_lr(home: Path, hr: Path, scale: int) -> Path | None:
    """Find the folder of LR pictures in that of a set; None if there is none of this scale.

    It is one of ``LR_FOLDERS``, or SelfExSR's folder of HR and LR pictures, or ``LR`` if its first
    picture has the size for this scale; otherwise a note says that ``LR`` is not used.

    Raises
    ------
    UsageError
        ``LR`` lacks a picture, or one is damaged.
    """
    for folder in (home / name.format(scale=scale) for name in LR_FOLDERS):
        if folder.is_dir():
            return folder
    if any(path.stem.endswith(f"_SRF_{scale}_LR") for path in picture_files(hr)):
        return hr
    plain = home / "LR"
    if not plain.is_dir() or not picture_files(plain):
        return None
    first = pair_up(hr, plain)[0]
    assert first.lr is not None
    large, small = open_picture(first.hr), open_picture(first.lr)
    if (small.height, small.width) == (large.height // scale, large.width // scale):
        return plain
    note(f"{plain} is not used: {first.lr.name} is not 1/{scale} of {first.hr.name}")
    return None


def _benchmark(name: str, scale: int, hr: Path, lr: Path | None) -> BenchmarkSet:
    return BenchmarkSet(name, scale, pair_up(hr, lr), "bicubic" if lr is None else "folder")


def _validation_part(home: Path, scale: int) -> BenchmarkSet:
    hr = home / "DIV2K_valid_HR"
    lr = home / ("DIV2K_valid_LR_x8" if scale == 8 else f"DIV2K_valid_LR_bicubic/X{scale}")
    if not hr.is_dir() or not picture_files(hr):
        raise UsageError(
            f"the validation pictures of {VALIDATION} are not in {hr}; get them with "
            "'srq data get DIV2K_valid_HR', or name their root by `data_root` or SRQ_DATA"
        )
    return _benchmark(VALIDATION, scale, hr, lr if lr.is_dir() else None)


def pair_up(hr: Path, lr: Path | None) -> tuple[Pair, ...]:
    """Pair the pictures of two folders by name, sorted; without ``lr``, LR is made from HR.

    HR files are named ``baby``, ``img_001_SRF_4_HR`` or ``baby_HR_x4``; LR files ``baby``,
    ``babyx4``, ``img_001_SRF_4_LR`` or ``baby_LRBI_x4``. In a folder with SelfExSR's names only
    those count, each on its side.

    Raises
    ------
    UsageError
        There are no HR files, two of them share a name, or ``lr`` lacks a picture.
    """
    originals: dict[str, Path] = {}
    for path in _side(hr, "HR"):
        name = _HR_SUFFIX.sub("", path.stem)
        if name in originals:
            raise UsageError(f"{path} and {originals[name].name} are both '{name}': remove one")
        originals[name] = path
    if not originals:
        raise UsageError(f"no pictures in {hr}")
    if lr is None:
        return tuple(Pair(name, path, None) for name, path in sorted(originals.items()))
    files = _side(lr, "LR")
    # Full names take precedence: an HR file may itself be called streetx2.
    partners = {_LR_SUFFIX.sub("", path.stem): path for path in files}
    partners |= {path.stem: path for path in files}
    missing = sorted(originals.keys() - partners.keys())
    if missing:
        raise UsageError(f"{lr}: no LR of {', '.join(missing[:5])}, {len(missing)} in all")
    return tuple(Pair(name, path, partners[name]) for name, path in sorted(originals.items()))


def _side(folder: Path, side: Literal["HR", "LR"]) -> list[Path]:
    """List the HR or LR pictures of a folder, which may hold both by SelfExSR's names."""
    files = picture_files(folder)
    sides = {path: match[1] for path in files if (match := _SELFEXSR.search(path.stem))}
    if len(set(sides.values())) < 2:
        return files
    return [path for path in files if sides.get(path) == side]


def usual_name(name: str) -> str:
    """Return the usual name of a set, whatever its case or alias; unknown names are kept.

    >>> usual_name("bsds100"), usual_name("holiday")
    ('B100', 'holiday')
    """
    for usual, others in (*BENCHMARKS.items(), (VALIDATION, ())):
        if name.lower() in (spelling.lower() for spelling in (usual, *others)):
            return usual
    return name


def _missing(name: str, places: list[Path]) -> UsageError:
    looked = f"looked in {', '.join(str(place) for place in places)}"
    if name not in BENCHMARKS:
        return UsageError(f"{unknown('benchmark set', name, [*BENCHMARKS, VALIDATION])}; {looked}")
    if name in _REGISTERED:
        how = f"it needs registration with its authors: put its pictures into {places[0] / 'HR'}"
    elif name in _MADE:
        how = f"make it with 'srq data make {name}' from the training pictures of DIV8K"
    else:
        how = f"get it with 'srq data get {name}', or name its root by `data_root` or SRQ_DATA"
    return UsageError(f"benchmark set {name} not found: {looked}; {how}")


def _size(image: NDArray[np.uint8]) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def central_crop(
    lr: NDArray[np.uint8], hr: NDArray[np.uint8], scale: int, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Cut the centre out of a pair.

    Parameters
    ----------
    lr, hr
        uint8 ``[h, w, 3]`` and ``[s*h, s*w, 3]``.
    side
        Largest side in LR pixels; 0: the whole pair.
    """
    top, left = (max(n - side, 0) // 2 if side else 0 for n in lr.shape[:2])
    bottom, right = ((n + side if side else None) for n in (top, left))
    lr = lr[top:bottom, left:right]
    return lr, hr[top * scale :, left * scale :][: lr.shape[0] * scale, : lr.shape[1] * scale]
