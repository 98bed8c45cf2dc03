"""Animations and documents: all frames with their times, or a clear refusal."""

import io

import numpy as np
import pytest
import tifffile
from PIL import Image

from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.apng import write_apng
from sr_quant_cli.imaging.decode import read_header
from sr_quant_cli.imaging.formats import SaveOptions
from sr_quant_cli.imaging.io import decodes, open_picture
from sr_quant_cli.imaging.writer import StreamWriter
from tests.helpers import picture
from tests.imaging import making

TIMES = (50, 100, 150, 200)
KINDS = ("GIF", "WEBP", "PNG")


def frames_of(opened):
    for index in range(opened.frames):
        frame = opened.frame(index)
        alpha = None if frame.alpha is None else frame.alpha.numpy()
        yield frame.read(0, frame.height, 0, frame.width), alpha


@pytest.mark.parametrize("kind", KINDS)
def test_all_frames_of_an_animation_are_read_with_their_times(tmp_path, kind):
    content = making.animation(kind)
    opened = open_picture(content)
    assert (opened.frames, opened.durations) == (4, TIMES)
    assert opened.loop == (4 if kind == "GIF" else 3)  # GIF states repetitions
    for index, (rgb, alpha) in enumerate(frames_of(opened)):
        drawn = making.drawn(index)
        assert np.array_equal(alpha, drawn[:, :, 3])
        assert np.array_equal(rgb[alpha > 0], drawn[:, :, :3][alpha > 0])
    for index in (3, 0, 2):  # in any order
        seen = opened.frame(index).alpha.numpy()
        assert np.array_equal(seen, making.drawn(index)[:, :, 3])
    header = read_header(content)
    assert (header.height, header.width, header.frames) == (24, 36, 4)
    path = tmp_path / f"a{header.suffix}"
    path.write_bytes(content)
    assert header.suffix == f".{kind.lower()}"
    assert decodes(path)


@pytest.mark.parametrize("key", ["gif", "webp", "png"])
@pytest.mark.parametrize("size", [None, (17, 40)])
def test_animations_are_written(key, size):
    buffer = io.BytesIO()
    with StreamWriter(
        buffer,
        24,
        36,
        pages=4,
        durations=TIMES,
        loop=3,
        size=size,
        save=SaveOptions(key, lossless=True if key == "webp" else None),
        alpha=making.to_vips(np.concatenate([making.drawn(i)[:, :, 3:] for i in range(4)])),
    ) as writer:
        for index in range(4):
            writer.write(making.drawn(index)[:, :, :3])
    made = open_picture(buffer.getvalue())
    assert (made.frames, made.durations, made.loop) == (4, TIMES, 3)
    assert (made.height, made.width) == (size or (24, 36))
    assert Image.open(io.BytesIO(buffer.getvalue())).n_frames == 4
    for index, (rgb, alpha) in enumerate(frames_of(made)):
        drawn = making.drawn(index)
        inside = alpha == 255
        assert np.array_equal(rgb[inside][0], drawn[0, 0, :3])
        assert np.ptp(rgb[inside], axis=0).max() <= 1
        if size is None:
            assert np.array_equal(alpha, drawn[:, :, 3])


def test_an_animated_png_keeps_sixteen_bits_and_metadata():
    deep = np.random.default_rng(0).integers(0, 65536, (3, 9, 7, 3), dtype=np.uint16)
    metadata = open_picture(making.photograph("PNG", picture(9, 7))).metadata
    buffer = io.BytesIO()
    with StreamWriter(
        buffer, 9, 7, bits=16, pages=3, durations=(10, 20, 70000), metadata=metadata
    ) as writer:
        for frame in deep:
            writer.write(frame)
    image = Image.open(io.BytesIO(buffer.getvalue()))
    assert (image.n_frames, image.text["Author"]) == (3, "somebody")
    assert image.info["icc_profile"] == making.PROFILE
    made = open_picture(buffer.getvalue())
    assert made.durations == (10, 20, 65535)
    assert made.metadata.comments == metadata.comments
    # Pillow, which reads the frames, keeps 8 bits of each.
    assert np.abs(made.frame(2).in_eight_bits().read(0, 9, 0, 7) - deep[2] / 257).max() <= 1


def test_a_picture_apart_from_the_frames_is_not_one_of_them():
    apart, *others = (Image.fromarray(making.drawn(index)) for index in range(3))
    content = making.encoded(
        apart, "PNG", save_all=True, append_images=others, duration=[60, 70], default_image=True
    )
    opened = open_picture(content)
    assert (opened.frames, opened.durations) == (2, (60, 70))
    assert np.array_equal(opened.frame(0).alpha.numpy(), making.drawn(1)[:, :, 3])


def test_pages_of_a_document_are_read_each_as_it_is():
    grey = picture(9, 7)[:, :, 0]
    opened = open_picture(making.pages(picture(20, 30), grey, picture(5, 6)))
    assert (opened.frames, opened.durations) == (3, None)
    second, third = opened.frame(1), opened.frame(2)
    assert (second.grey, second.height, third.width) == (True, 9, 6)
    assert np.array_equal(second.read(0, 9, 0, 7)[:, :, 0], grey)
    assert np.array_equal(third.read(0, 5, 0, 6), picture(5, 6))


def test_pages_are_written():
    pixels = [picture(9, 7, seed=seed) for seed in range(3)]
    buffer = io.BytesIO()
    with StreamWriter(buffer, 9, 7, pages=3, save=SaveOptions("tiff")) as writer:
        for frame in pixels:
            writer.write(frame)
    content = io.BytesIO(buffer.getvalue())
    assert np.array_equal(tifffile.imread(content, key=range(3)), np.stack(pixels))
    assert open_picture(buffer.getvalue()).frames == 3


def test_smaller_copies_of_a_picture_are_no_pages():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as tiff:
        tiff.write(picture(40, 30), photometric="rgb")
        tiff.write(picture(20, 15), photometric="rgb", subfiletype=1)
    assert open_picture(buffer.getvalue()).frames == 1
    assert read_header(buffer.getvalue()).frames == 1


def test_damage_of_a_later_page_is_seen(tmp_path):
    content = making.pages(picture(20, 30), picture(20, 30, seed=1))
    with tifffile.TiffFile(io.BytesIO(content)) as tiff:
        ends = [page.dataoffsets[0] + page.databytecounts[0] for page in tiff.pages]
    assert ends[1] > ends[0]
    path = tmp_path / "a.tif"
    path.write_bytes(content[: ends[1] - 60])
    assert not decodes(path)


@pytest.mark.parametrize("kind", KINDS)
def test_damage_of_a_later_frame_is_seen(tmp_path, kind):
    content = making.animation(kind)
    (tmp_path / "a.img").write_bytes(content[: len(content) - 40])
    assert not decodes(tmp_path / "a.img")
    with pytest.raises(UsageError, match=r"cannot read .*a\.img"):
        for _ in frames_of(open_picture(tmp_path / "a.img")):
            pass


@pytest.mark.parametrize("deep", [False, True])
def test_an_animated_png_of_16_bits_is_read_at_8_and_says_so(tmp_path, deep):
    levels = np.random.default_rng(0).integers(0, 256, (2, 9, 7, 3), dtype=np.uint8)
    stored = levels.astype(np.uint16) * 257 if deep else levels
    frames = [making.to_vips(frame).write_to_buffer(".png") for frame in stored]
    write_apng(tmp_path / "a.png", frames, (50, 60), 0)
    assert read_header(tmp_path / "a.png").bits == 8
    opened = open_picture(tmp_path / "a.png")
    told = ("16 bits a sample (animated PNG is read at 8)",) if deep else ()
    assert (opened.bits, opened.losses) == (8, told)
    for (rgb, _), frame in zip(frames_of(opened), levels, strict=True):
        assert np.array_equal(rgb, frame)


@pytest.mark.parametrize("suffix", [".png", ".tif", ".ppm", ".jpg"])
@pytest.mark.parametrize("deep", [False, True])
def test_the_header_knows_the_bits_that_are_decoded(tmp_path, suffix, deep):
    levels = np.full((9, 7, 3), 70, np.uint8).astype(np.uint16 if deep else np.uint8)
    path = tmp_path / f"a{suffix}"
    if suffix == ".ppm":
        highest = 65535 if deep else 255
        path.write_bytes(b"P6 7 9 %d " % highest + levels.astype(">u2" if deep else "u1").tobytes())
    else:
        making.to_vips(levels).write_to_file(path)
    assert read_header(path).bits == open_picture(path).bits
