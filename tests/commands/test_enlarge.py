"""One picture in, one picture out: what comes out, shrunk, is what went in."""

import io

import numpy as np
import pytest
import pyvips
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sr_quant_cli.commands.enlarge import (
    PictureOptions,
    default_suffix,
    open_job,
    run,
    write,
)
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.formats import SaveOptions, writable_formats
from sr_quant_cli.imaging.io import open_picture
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.inference.tiles import ignore
from sr_quant_cli.inference.upscaler import BicubicUpscaler, Upscaler
from tests.helpers import picture
from tests.imaging import making


class Repeating(Upscaler):
    """Enlarges by repeating pixels, in bands of 7 rows; keeps what it has read."""

    name = "repeating"
    scale = 2

    def __init__(self):
        self.read = []

    def bands(self, read, height, width, on_tile=ignore, region=None):
        area = region or Region(0, 0, height, width)
        for top in range(area.top, area.bottom, 7):
            rows = read(top, min(top + 7, area.bottom), area.left, area.right)
            self.read.append(rows)
            yield rows.repeat(2, axis=0).repeat(2, axis=1)


def enlarged(content, size=None, upscaler=None, **options):
    """The enlarged file, and what it has lost."""
    target = io.BytesIO()
    opened = open_job(content, target, PictureOptions(**options), "a.png")
    write(run(opened, upscaler or Repeating(), size=size))
    return target.getvalue(), opened.losses


def levels(opened):
    return opened.read(0, opened.height, 0, opened.width)


def halved(pixels):
    """Means of 2x2 pixels."""
    height, width = pixels.shape[:2]
    return pixels.reshape(height // 2, 2, width // 2, 2, -1).mean(axis=(1, 3))


SIZES = st.tuples(st.integers(1, 24), st.integers(1, 24))


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    size=SIZES,
    bits=st.sampled_from([8, 16]),
    bands=st.integers(1, 4),
    source=st.sampled_from(["png", "tif"]),
    key=st.sampled_from(["png", "tiff", "webp"]),
    profile=st.booleans(),
    seed=st.integers(0, 99),
)
def test_what_comes_out_shrunk_is_what_went_in(size, bits, bands, source, key, profile, seed):
    draw = np.random.default_rng(seed)
    kind, most = (np.uint16, 65535) if bits == 16 else (np.uint8, 255)
    given_levels = draw.integers(0, most + 1, (*size, bands), dtype=kind)
    image = making.to_vips(given_levels)
    if profile and bands > 2:
        image.set_type(pyvips.GValue.blob_type, "icc-profile-data", making.PROFILE)
    content = image.write_to_buffer(f".{source}", keep="icc")
    made, losses = enlarged(content, save=SaveOptions(key))
    opened = open_picture(made)
    form = writable_formats()[key]
    assert (opened.height, opened.width) == (2 * size[0], 2 * size[1])
    assert opened.bits == min(bits, form.bits)
    assert losses == ((f"16 bits a sample ({form} holds 8)",) if opened.bits < bits else ())
    assert opened.metadata.icc == (making.PROFILE if profile and bands > 2 else None)
    if key != "webp":
        assert opened.grey == (bands < 3)
    step = 257 if opened.bits < bits else 1
    colour = given_levels[:, :, : 1 if bands < 3 else 3] / step
    out = halved(levels(opened))[:, :, : colour.shape[2]]
    shown = np.ones(size, bool)
    if bands % 2 == 0:
        alpha = given_levels[:, :, -1] / step
        shown = np.rint(alpha) > 0
        if key == "webp":  # colours that cannot be seen are not kept
            seen = opened.alpha.numpy().reshape(size[0], 2, size[1], 2).min(axis=(1, 3)) > 0
            shown &= seen
        wider = halved(opened.alpha.numpy())[:, :, 0]
        assert np.corrcoef(np.append(wider, [0, 1]), np.append(alpha, [0, 1]))[0, 1] > 0.8
    assert np.abs(out - colour)[shown].max(initial=0) <= 0.5


@pytest.mark.parametrize("key", ["png", "jpg", "webp", "tiff", "avif"])
@pytest.mark.parametrize("size", [None, (33, 51)])
def test_a_flat_picture_stays_flat_to_the_border(key, size):
    for bits, level in ((8, 87), (16, 87 * 257)):
        flat = np.full((20, 30, 3), level, np.uint16 if bits == 16 else np.uint8)
        content = making.to_vips(flat).write_to_buffer(".png")
        made, _ = enlarged(content, size, BicubicUpscaler(2), save=SaveOptions(key))
        out = levels(open_picture(made).in_eight_bits())
        assert np.abs(out.astype(int) - 87).max() <= (key in ("jpg", "avif"))


@pytest.mark.parametrize(
    ("mode", "bands"), [("1", 1), ("L", 1), ("LA", 2), ("P", 4), ("RGB", 3), ("RGBA", 4)]
)
def test_every_kind_of_png_becomes_the_kind_that_it_looks_like(mode, bands):
    image = Image.fromarray(np.dstack([picture(20, 30), picture(20, 30, seed=1)[:, :, :1]]))
    options = {}
    if mode == "P":
        image = image.convert("RGB").quantize(16)
        options = {"transparency": 3}
    elif mode != "RGBA":
        image = image.convert("L").convert(mode) if mode == "1" else image.convert(mode)
    made, losses = enlarged(making.encoded(image, "PNG", **options))
    assert losses == ()
    assert pyvips.Image.new_from_buffer(made, "").bands == bands


def with_alpha(bits):
    """A red disc on transparent black."""
    y, x = np.mgrid[:40, :40]
    most = 2**bits - 1
    alpha = np.clip(most * (15 - np.hypot(x - 19.5, y - 19.5)), 0, most)
    colour = np.where(alpha[:, :, None] > 0, np.array([220, 30, 30]) * most // 255, 0)
    return np.dstack([colour, alpha]).astype(np.uint16 if bits == 16 else np.uint8)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("size", [None, (133, 133), (61, 90), (40 * 5, 40 * 5)])
def test_an_edge_to_transparency_has_no_fringe(bits, size):
    content = making.to_vips(with_alpha(bits)).write_to_buffer(".png")
    made, _ = enlarged(content, size, BicubicUpscaler(4))
    opened = open_picture(made)
    assert opened.bits == bits
    most = 2**bits - 1
    out, alpha = levels(opened).astype(int), opened.alpha.numpy()
    visible = alpha > most // 50
    wrong = np.abs(out - np.array([220, 30, 30]) * most // 255)
    assert wrong[visible].max() <= 3 * most // 255
    assert (alpha.min(), alpha.max()) == (0, most)


@pytest.mark.parametrize("alpha", [None, 255])
def test_an_opaque_alpha_costs_nothing(alpha):
    """The network sees the same pixels, once."""
    rgb = picture(20, 30)
    pixels = rgb if alpha is None else np.dstack([rgb, np.full((20, 30), alpha, np.uint8)])
    upscaler = Repeating()
    enlarged(making.to_vips(pixels).write_to_buffer(".png"), upscaler=upscaler)
    assert np.array_equal(np.concatenate(upscaler.read), rgb)


@pytest.mark.parametrize("bands", [1, 2, 3, 4])
def test_a_region_is_that_part_of_the_whole(bands):
    content = making.to_vips(np.dstack([picture(20, 30), picture(20, 30)[:, :, :1]])[:, :, :bands])
    content = content.write_to_buffer(".png")
    upscaler = BicubicUpscaler(3)
    whole = pyvips.Image.new_from_buffer(enlarged(content, upscaler=upscaler)[0], "")
    made, _ = enlarged(content, upscaler=upscaler, region=Region(3, 5, 11, 17))
    part = pyvips.Image.new_from_buffer(made, "")
    assert (part.height, part.width) == (33, 51)
    assert np.array_equal(part.numpy(), whole.crop(15, 9, 51, 33).numpy())
    with pytest.raises(UsageError, match="`region` 5,3,26,11: goes beyond the picture"):
        enlarged(content, region=Region(3, 5, 11, 26))


@pytest.mark.parametrize("key", ["png", "jpg", "webp", "tiff", "avif", "gif"])
def test_strip_removes_all_and_keeps_the_colours(key):
    pixels = np.full((20, 30, 3), (40, 200, 90), np.uint8)
    content = making.photograph("PNG", pixels, orientation=6)
    made, losses = enlarged(content, strip=True, save=SaveOptions(key))
    assert losses == ("colour profile (converted to sRGB)",)
    for text in (b"somebody", b"Maker", b"sea", b"Lens", making.NOTE, making.THUMBNAIL):
        assert text not in made
    opened = open_picture(made)
    assert (opened.height, opened.width) == (60, 40)
    assert opened.metadata.icc is None
    expected = levels(open_picture(content).in_srgb())[0, 0]
    assert np.abs(levels(opened).astype(int) - expected).max() <= 5
    assert np.abs(expected.astype(int) - pixels[0, 0]).max() > 5


def test_a_format_without_profiles_gets_srgb():
    pixels = np.full((20, 30, 3), (40, 200, 90), np.uint8)
    _, losses = enlarged(making.photograph("JPEG", pixels), save=SaveOptions("gif"))
    assert losses == ("colour profile (converted to sRGB)", "EXIF", "XMP", "comments")


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG"])
@pytest.mark.parametrize("size", [None, (30, 50)])
def test_animations_stay_animations(tmp_path, kind, size):
    path = tmp_path / f"a.{kind.lower()}"
    path.write_bytes(making.animation(kind))
    assert default_suffix(path) == path.suffix
    made, losses = enlarged(path, size, save=SaveOptions(kind.lower()))
    opened = open_picture(made)
    assert losses == ()
    assert (opened.frames, opened.durations) == (4, (50, 100, 150, 200))
    assert (opened.height, opened.width) == (size or (48, 72))
    for index in range(4):
        frame, drawn = opened.frame(index), making.drawn(index)
        solid = frame.alpha.numpy() == 255
        assert np.abs(levels(frame)[solid].astype(int) - drawn[0, 0, :3]).max() <= 1
        area = (frame.height * frame.width) / drawn[:, :, 3].size
        assert (frame.alpha.numpy() > 127).sum() == pytest.approx(
            area * (drawn[:, :, 3] > 0).sum(), rel=0.08
        )


def test_other_pictures_become_png_by_default(tmp_path):
    making.to_vips(picture(9, 7)).write_to_file(str(tmp_path / "still.webp"))
    (tmp_path / "damaged.gif").write_bytes(b"GIF89a")
    for name in ("still.webp", "damaged.gif", "missing.tif", "a.jpg"):
        assert default_suffix(tmp_path / name) == ".png"


@pytest.mark.parametrize("key", ["jpg", "avif"])
def test_an_animation_is_refused_where_only_one_frame_fits(key):
    content = making.animation("GIF")
    with pytest.raises(UsageError) as refused:
        enlarged(content, save=SaveOptions(key))
    assert "a.png has 4 frames, which" in str(refused.value)
    assert "or enlarge only one with `frames` first" in str(refused.value)
    made, losses = enlarged(content, save=SaveOptions("avif"), frames="first")
    assert losses == ("frames 2 to 4",)
    assert open_picture(made).frames == 1


def test_times_are_lost_in_a_document():
    made, losses = enlarged(making.animation("GIF"), save=SaveOptions("tiff"))
    assert (open_picture(made).frames, losses) == (4, ("times of the frames",))


def test_pages_stay_pages(tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(making.pages(*(picture(9, 7, seed=seed) for seed in range(3))))
    assert default_suffix(path) == ".tif"
    made, losses = enlarged(path, save=SaveOptions("tiff"))
    assert losses == ()
    for index in range(3):
        out = levels(open_picture(made).frame(index))
        assert np.array_equal(halved(out), picture(9, 7, seed=index))
    with pytest.raises(UsageError, match=r"has 3 pages, which PNG does not hold: write \.tif, or"):
        enlarged(path)
    assert enlarged(path, frames="first")[1] == ("pages 2 to 3",)


def test_pages_of_different_kinds_become_equal_and_different_sizes_are_refused():
    grey = np.ascontiguousarray(picture(9, 7)[:, :, 0])
    made, _ = enlarged(making.pages(picture(9, 7), grey), save=SaveOptions("tiff"))
    second = levels(open_picture(made).frame(1))
    assert np.array_equal(halved(second)[:, :, 1], grey)
    with pytest.raises(UsageError, match=r"pages differ in size \(7x9, 6x5\): .* `frames` first"):
        enlarged(making.pages(picture(9, 7), picture(5, 6)), save=SaveOptions("tiff"))


def test_a_file_is_written_atomically_and_an_error_leaves_nothing(tmp_path):
    class Failing(Repeating):
        def bands(self, *arguments):
            yield next(super().bands(*arguments))
            raise FailedError("the network failed")

    content = making.to_vips(picture(20, 30)).write_to_buffer(".png")
    target = tmp_path / "made/a.png"
    opened = open_job(content, target, PictureOptions())
    with pytest.raises(FailedError, match="the network failed"):
        run(opened, Failing())
    assert list(target.parent.iterdir()) == []
    made = run(opened, Repeating())
    made.discard()
    assert list(target.parent.iterdir()) == []
    write(run(opened, Repeating()))
    assert np.array_equal(halved(levels(open_picture(target))), picture(20, 30))
    assert [path.name for path in target.parent.iterdir()] == ["a.png"]


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (40, 1), (3, 2)])
@pytest.mark.parametrize("size", [None, (5, 5)])
def test_tiny_pictures_are_enlarged(shape, size):
    content = making.to_vips(picture(*shape)).write_to_buffer(".png")
    made, _ = enlarged(content, size, BicubicUpscaler(4))
    opened = open_picture(made)
    assert (opened.height, opened.width) == (size or (4 * shape[0], 4 * shape[1]))
