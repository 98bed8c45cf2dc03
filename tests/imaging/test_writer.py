"""Every format holds what it claims, in files and streams; failures leave nothing."""

import io

import numpy as np
import pytest
import pyvips

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging import formats
from sr_quant_cli.imaging.formats import SaveOptions, check_writable, writable_formats
from sr_quant_cli.imaging.io import open_picture
from sr_quant_cli.imaging.writer import StreamWriter
from tests.helpers import picture
from tests.imaging import making


def random_levels(bits, bands):
    kind = np.uint16 if bits == 16 else np.uint8
    return np.random.default_rng(bands).integers(0, 2**bits, (20, 30, bands), dtype=kind)


LOSSLESS = [
    key for key, form in writable_formats().items() if form.quality is None or form.lossless
]


@pytest.mark.parametrize("key", [key for key in LOSSLESS if key != "gif"])
@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_lossless_formats_give_back_what_went_in(key, bits, bands):
    form = writable_formats()[key]
    levels = random_levels(bits, bands)
    grey, alpha = bands < 3, levels[:, :, bands - 1] if bands % 2 == 0 else None
    colour = np.repeat(levels[:, :, :1], 3, axis=2) if grey else levels[:, :, :3]
    buffer = io.BytesIO()
    save = SaveOptions(key, lossless=None if form.quality is None else True)
    with StreamWriter(
        buffer,
        *levels.shape[:2],
        bits=bits,
        grey=grey,
        alpha=None if alpha is None else pyvips.Image.new_from_array(alpha),
        save=save,
    ) as writer:
        writer.write(colour[:7])
        writer.write(colour[7:])
    opened = open_picture(buffer.getvalue())
    assert opened.bits == min(bits, form.bits)
    step = 257 if opened.bits < bits else 1
    seen = np.ones((20, 30), bool)
    if alpha is not None:
        assert np.array_equal(opened.alpha.numpy(), np.rint(alpha / step))
        seen = np.rint(alpha / step) > 0
    made = opened.read(0, 20, 0, 30)
    assert np.array_equal(made[seen], np.rint(colour / step)[seen])
    if form.key in ("png", "tiff"):
        assert opened.grey == grey


@pytest.mark.parametrize("key", ["jpg", "webp", "avif"])
def test_quality_decides_size_and_error(key):
    y, x = np.mgrid[:64, :96]
    smooth = np.dstack([x * 2, y * 3, 128 + 90 * np.sin(x / 9)]).astype(np.uint8)
    sizes, errors = [], []
    for quality in (10, 60, 95):
        buffer = io.BytesIO()
        with StreamWriter(buffer, 64, 96, save=SaveOptions(key, quality=quality)) as writer:
            writer.write(smooth)
        made = open_picture(buffer.getvalue()).read(0, 64, 0, 96)
        sizes.append(len(buffer.getvalue()))
        errors.append(np.abs(made.astype(int) - smooth).mean())
    assert sizes == sorted(sizes)
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1.5


@pytest.mark.parametrize("grey", [False, True])
def test_sixteen_bits_are_rounded_to_eight(grey):
    levels = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    buffer = io.BytesIO()
    save = SaveOptions("webp", lossless=True)
    with StreamWriter(buffer, 256, 256, bits=16, grey=grey, save=save) as writer:
        writer.write(np.dstack([levels] * 3))
    made = open_picture(buffer.getvalue()).read(0, 256, 0, 256)
    assert np.array_equal(made[:, :, 1], np.rint(levels / 257))


@pytest.mark.parametrize("key", list(writable_formats()))
def test_a_flat_picture_stays_flat_to_the_border(key):
    for bits, level in ((8, 87), (16, 87 * 257)):
        flat = np.full((30, 41, 3), level, np.uint16 if bits == 16 else np.uint8)
        buffer = io.BytesIO()
        with StreamWriter(
            buffer, 30, 41, bits=bits, save=SaveOptions(key), size=(23, 37)
        ) as writer:
            writer.write(flat)
        made = open_picture(buffer.getvalue()).in_eight_bits()
        assert np.abs(made.read(0, 23, 0, 37).astype(int) - 87).max() <= (key in ("jpg", "avif"))


def test_a_stream_gets_the_whole_file_at_once_or_nothing():
    class Stream(io.BytesIO):
        calls = 0

        def write(self, content):
            type(self).calls += 1
            return super().write(content)

    stream = Stream()
    with (
        pytest.raises(FailedError, match="cannot write the output"),
        StreamWriter(stream, 9, 7) as writer,
    ):
        writer.write(picture(5, 7))
    assert Stream.calls == 0
    with StreamWriter(stream, 9, 7) as writer:
        writer.write(picture(9, 7))
    assert np.array_equal(open_picture(stream.getvalue()).read(0, 9, 0, 7), picture(9, 7))


def test_a_stream_that_fails_is_one_line():
    class Full(io.RawIOBase):
        def writable(self):
            return True

        def write(self, content):
            raise OSError(28, "No space left on device")

    with (
        pytest.raises(FailedError, match="cannot write the output: No space left on device"),
        StreamWriter(Full(), 9, 7) as writer,
    ):
        writer.write(picture(9, 7))


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".tif", ".avif", ".gif"])
def test_an_encoder_that_is_cancelled_leaves_nothing(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"precious")
    with (
        pytest.raises(FailedError),
        StreamWriter(tmp_path / f"a{suffix}", 90, 90, cancelled=lambda: True) as writer,
    ):
        writer.write(picture(90, 90))
    assert (tmp_path / f"a{suffix}").read_bytes() == b"precious"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
def test_metadata_that_cannot_be_added_leaves_nothing(tmp_path, suffix, monkeypatch):
    metadata = open_picture(making.photograph("PNG", picture(9, 7))).metadata

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("sr_quant_cli.imaging.finishing._insert", fail)
    monkeypatch.setattr("sr_quant_cli.imaging.exif.write_tiff", fail)
    with (
        pytest.raises(FailedError, match=f"a{suffix}: No space left on device"),
        StreamWriter(tmp_path / f"a{suffix}", 9, 7, metadata=metadata) as writer,
    ):
        writer.write(picture(9, 7))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"format": "pgn"}, "unknown format 'pgn': did you mean 'png'"),
        ({"quality": 0}, "`quality` 0: must be 1 to 100"),
        ({"quality": 101}, "`quality` 101: must be 1 to 100"),
        ({"quality": 80, "lossless": True}, "`lossless`: cannot be combined with `quality`"),
    ],
)
def test_options_that_cannot_be_are_refused(options, line):
    with pytest.raises(UsageError) as refused:
        SaveOptions(**options)
    assert line in str(refused.value)


@pytest.mark.parametrize(
    ("name", "options", "line"),
    [
        ("a.png", {"quality": 80}, "`quality` 80: PNG is always lossless"),
        ("a.jpg", {"lossless": True}, "`lossless`: JPEG is never lossless"),
        ("a.gif", {"quality": 80}, "`quality` 80: GIF has no quality to choose"),
        ("a.gif", {"lossless": True}, "`lossless`: GIF is never lossless"),
        ("a.xyz", {}, "suffix must be one of .png, .jpg"),
    ],
)
def test_options_that_a_format_does_not_have_are_refused(tmp_path, name, options, line):
    with pytest.raises(UsageError) as refused:
        check_writable(tmp_path / name, 9, 9, save=SaveOptions(**options))
    assert line in str(refused.value)


def test_a_format_that_this_libvips_does_not_write_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "_encodes", lambda form: form.key in ("png", "jpg"))
    formats.writable_formats.cache_clear()
    try:
        assert list(writable_formats()) == ["png", "jpg"]
        with pytest.raises(UsageError, match="the libvips of this installation does not write jxl"):
            SaveOptions("jxl")
        with pytest.raises(UsageError, match=r"a\.avif: .* does not write AVIF"):
            check_writable(tmp_path / "a.avif", 9, 9)
    finally:
        formats.writable_formats.cache_clear()


def test_a_large_tiff_has_long_offsets_and_a_small_one_short(tmp_path, monkeypatch):
    for limit, version in ((10**9, 42), (10, 43)):
        monkeypatch.setattr("sr_quant_cli.imaging.writer._CLASSIC_TIFF", limit)
        with StreamWriter(tmp_path / "a.tif", 9, 7) as writer:
            writer.write(picture(9, 7))
        assert (tmp_path / "a.tif").read_bytes()[:4] == b"II" + bytes([version, 0])
