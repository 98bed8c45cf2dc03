"""Picture formats that srq reads and writes, and listings of folders."""

import functools
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import UsageError, unknown
from sr_quant_cli.records import record

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

_LACKING = "the libvips of this installation does not write"
_SUFFIXES = frozenset(suffix for suffixes in READABLE.values() for suffix in suffixes)

_PROFILE = frozenset({"colour profile"})
_ALL = _PROFILE | {"EXIF", "XMP", "IPTC", "comments"}


@record
class WritableFormat:
    """A format of the outputs.

    Attributes
    ----------
    key
        Name in options: ``png``, ``jpg``.
    name
        Name in messages.
    suffixes
        Suffixes of its files; the first is the default.
    saver
        Suffix by which libvips chooses the encoder.
    options
        Options of libvips for every picture.
    bits
        Largest number of bits a sample.
    alpha
        Holds transparency.
    animation
        Holds frames with their times.
    pages
        Holds several pages.
    colours
        Largest number of colours of a frame; None: no limit.
    longest_side
        Largest height and width in pixels; None: no limit.
    quality
        Quality unless another one is chosen; None: there is no choice.
    lossless
        Can be lossless.
    metadata
        Kinds of metadata that it holds.
    """

    key: str
    name: str
    suffixes: tuple[str, ...]
    saver: str
    options: tuple[tuple[str, Any], ...] = ()
    bits: int = 8
    alpha: bool = True
    animation: bool = False
    pages: bool = False
    colours: int | None = None
    longest_side: int | None = None
    quality: int | None = None
    lossless: bool = False
    metadata: frozenset[str] = _PROFILE | {"EXIF", "XMP"}

    @property
    def suffix(self) -> str:
        """The default suffix."""
        return self.suffixes[0]

    def __str__(self) -> str:
        return self.name


_FORMATS = (
    WritableFormat(
        "png",
        "PNG",
        (".png",),
        ".png",
        # Half as large as without a filter, in less time.
        options=(("compression", 2), ("filter", "up")),
        bits=16,
        animation=True,
        metadata=_ALL,
    ),
    WritableFormat(
        "jpg",
        "JPEG",
        (".jpg", ".jpeg"),
        ".jpg",
        alpha=False,
        longest_side=65535,
        quality=95,
        metadata=_ALL,
    ),
    WritableFormat(
        "webp",
        "WebP",
        (".webp",),
        ".webp",
        animation=True,
        longest_side=16383,
        quality=90,
        lossless=True,
    ),
    WritableFormat(
        "tiff",
        "TIFF",
        (".tif", ".tiff"),
        ".tif",
        options=(("compression", "deflate"), ("predictor", "horizontal")),
        bits=16,
        pages=True,
        metadata=_ALL,
    ),
    WritableFormat(
        "avif", "AVIF", (".avif",), ".avif", longest_side=65535, quality=90, lossless=True
    ),
    WritableFormat(
        "gif",
        "GIF",
        (".gif",),
        ".gif",
        animation=True,
        colours=256,
        longest_side=65535,
        metadata=frozenset(),
    ),
    WritableFormat(
        "heif", "HEIF", (".heic", ".heif"), ".heic", longest_side=65535, quality=90, lossless=True
    ),
    WritableFormat("jxl", "JPEG XL", (".jxl",), ".jxl", bits=16, quality=90, lossless=True),
)


@functools.cache
def writable_formats() -> dict[str, WritableFormat]:
    """Formats that this libvips can write, by their keys."""
    return {form.key: form for form in _FORMATS if _encodes(form)}


def writable_suffixes() -> tuple[str, ...]:
    """Suffixes of the formats that can be written."""
    return tuple(suffix for form in writable_formats().values() for suffix in form.suffixes)


def can_write(suffix: str) -> bool:
    """Tell if a suffix, in lower case, is one of ``writable_suffixes``, without trying them all."""
    return any(suffix in form.suffixes and _encodes(form) for form in _FORMATS)


@record
class SaveOptions:
    """Format of the outputs.

    Attributes
    ----------
    format
        Key of ``writable_formats``; None: by the suffix of the output.
    quality
        1 to 100 for lossy compression; None: the default of the format.
    lossless
        Lossless compression; None: the default of the format, which is lossless for WebP unless
        ``quality`` is given.

    Raises
    ------
    UsageError
        The format is unknown, or the options exclude each other.
    """

    format: str | None = None
    quality: int | None = None
    lossless: bool | None = None

    def __post_init__(self) -> None:
        if self.format is not None:
            _format_of_key(self.format)
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise UsageError("must be 1 to 100", field="quality", value=self.quality)
        if self.lossless and self.quality is not None:
            raise UsageError("cannot be combined with `quality`", field="lossless")

    def format_for(self, path: Path | None) -> WritableFormat:
        """Return the format of an output file; of a stream (None), ``format`` or PNG.

        Raises
        ------
        UsageError
            The suffix is unknown, or an option does not apply to the format.
        """
        if self.format is not None:
            form = _format_of_key(self.format)
        elif path is None:
            form = writable_formats()["png"]
        else:
            form = _format_of_suffix(path)
        if self.quality is not None and form.quality is None:
            why = "is always lossless" if form.colours is None else "has no quality to choose"
            raise UsageError(f"{form} {why}", field="quality", value=self.quality)
        if self.lossless and not form.lossless and (form.quality or form.colours):
            raise UsageError(f"{form} is never lossless", field="lossless")
        return form

    def vips_options(self, form: WritableFormat) -> dict[str, Any]:
        """Options of libvips that save a picture in ``form``."""
        options = dict(form.options)
        if form.quality is None:
            return options
        lossless = self.lossless
        if lossless is None:
            lossless = form.key == "webp" and self.quality is None
        if lossless:
            return options | {"lossless": True}
        return options | {"Q": self.quality or form.quality}


def check_writable(
    path: Path | None,
    height: int,
    width: int,
    *,
    alpha: bool = False,
    save: SaveOptions = SaveOptions(),  # noqa: B008 - frozen
) -> WritableFormat:
    """Return the format of an output; refuse one that its format cannot hold.

    Raises
    ------
    UsageError
        The suffix is unknown, a side is too long, or a JPEG would need transparency.
    """
    form = save.format_for(path)
    where = "the output" if path is None else path
    limit = form.longest_side
    if limit is not None and max(height, width) > limit:
        raise UsageError(
            f"cannot write {where}: {width}x{height} is too large for {form} "
            f"(longest side {limit}); use .png or .tif"
        )
    if alpha and not form.alpha:
        raise UsageError(f"cannot write {where}: {form} holds no transparency; use .png")
    return form


@record
class Listing:
    """Contents of a folder by kind, sorted by name; hidden entries are left out."""

    pictures: tuple[Path, ...]
    """files with a suffix of ``READABLE``, or of a format that libvips here writes"""
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
    suffixes = {*_SUFFIXES, *writable_suffixes()}
    kinds: dict[str, list[Path]] = {"pictures": [], "others": [], "folders": []}
    for path in entries:
        if path.is_dir():
            kinds["folders"].append(path)
        elif path.suffix.lower() in suffixes and path.is_file():
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


@functools.cache
def _encodes(form: WritableFormat) -> bool:
    """Tell if libvips has an encoder; those of libheif are plugins, so they encode a pixel."""
    import pyvips

    if form.key not in ("avif", "heif"):
        saver = pyvips.vips_lib.vips_foreign_find_save_target(form.saver.encode())
        return bool(saver != pyvips.ffi.NULL)
    pixel = pyvips.Image.black(16, 16, bands=3).copy(interpretation="srgb")
    try:
        pixel.write_to_buffer(form.saver)
    except pyvips.Error:
        return False
    return True


def _format_of_key(key: str) -> WritableFormat:
    formats = writable_formats()
    if key in formats:
        return formats[key]
    if any(form.key == key for form in _FORMATS):
        raise UsageError(f"{_LACKING} {key}", field="format", value=key)
    raise unknown("format", key, list(formats))


def _format_of_suffix(path: Path) -> WritableFormat:
    suffix = path.suffix.lower()
    for form in _FORMATS:
        if suffix in form.suffixes:
            if not _encodes(form):
                raise UsageError(f"cannot write {path}: {_LACKING} {form}")
            return form
    known = ", ".join(writable_suffixes())
    raise UsageError(f"cannot write {path}: suffix must be one of {known}")
