"""Picture formats that srq reads and writes, and listings of folders."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import UsageError

READABLE: dict[str, tuple[str, ...]] = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WebP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "AVIF": (".avif",),
    "BMP": (".bmp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "TGA": (".tga",),
    "JPEG 2000": (".jp2", ".j2k"),
}
"""Formats that can be read, with the suffixes that mark pictures in a folder."""

_TIFF = {"compression": "deflate", "predictor": "horizontal", "bigtiff": True, "keep": "icc"}
_JPEG = {"Q": 95, "keep": "icc"}

SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    ".png": {"compression": 3, "keep": "icc"},
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".webp": {"lossless": True, "keep": "icc"},
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
}
"""Suffixes that can be written, with the options of libvips for each."""

_LONGEST_SIDE = {".webp": 16383, ".jpg": 65535, ".jpeg": 65535}
_SUFFIXES = frozenset(suffix for suffixes in READABLE.values() for suffix in suffixes)


@dataclass(frozen=True)
class Listing:
    """Contents of a folder by kind, sorted by name; hidden entries are left out."""

    pictures: tuple[Path, ...]
    """files with a suffix of ``READABLE``"""
    others: tuple[Path, ...]
    """other files"""
    folders: tuple[Path, ...]


def list_folder(folder: Path) -> Listing:
    """List the direct contents of ``folder``.

    Raises
    ------
    UsageError
        The folder cannot be read.
    """
    try:
        entries = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UsageError(f"cannot read {folder}: {error.strerror}") from error
    kinds: dict[str, list[Path]] = {"pictures": [], "others": [], "folders": []}
    for path in entries:
        if path.is_dir():
            kinds["folders"].append(path)
        elif path.suffix.lower() in _SUFFIXES and path.is_file():
            kinds["pictures"].append(path)
        else:
            kinds["others"].append(path)
    return Listing(**{kind: tuple(paths) for kind, paths in kinds.items()})


def picture_files(folder: Path) -> list[Path]:
    """List the pictures directly in ``folder``, sorted by name, without hidden files.

    Raises
    ------
    UsageError
        The folder cannot be read.
    """
    return list(list_folder(folder).pictures)


def check_writable(path: Path, height: int, width: int, *, alpha: bool = False) -> None:
    """Refuse an output that its format cannot hold.

    Raises
    ------
    UsageError
        The suffix is unknown, a side is too long, or a JPEG would need transparency.
    """
    suffix = path.suffix.lower()
    if suffix not in SAVE_OPTIONS:
        raise UsageError(f"cannot write {path}: suffix must be one of {', '.join(SAVE_OPTIONS)}")
    limit = _LONGEST_SIDE.get(suffix)
    if limit is not None and max(height, width) > limit:
        raise UsageError(
            f"cannot write {path}: {width}x{height} is too large for {suffix} "
            f"(longest side {limit}); use .png or .tif"
        )
    if alpha and not holds_alpha(path):
        raise UsageError(f"cannot write {path}: JPEG holds no transparency; use .png")


def holds_alpha(path: Path) -> bool:
    """Tell if the format of a suffix supports transparency."""
    return path.suffix.lower() not in (".jpg", ".jpeg")
