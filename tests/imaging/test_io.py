import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import pyvips

from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.failures import readable
from sr_quant_cli.imaging.formats import check_writable
from sr_quant_cli.imaging.io import StreamWriter, open_picture, read_rgb, write_rgb
from tests.helpers import picture


def save(path, array, **options):
    pyvips.Image.new_from_array(array).write_to_file(str(path), **options)
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp"])
def test_lossless_formats_give_back_every_pixel(tmp_path, suffix):
    pixels = picture(23, 31)
    write_rgb(tmp_path / f"a{suffix}", pixels)
    assert np.array_equal(read_rgb(tmp_path / f"a{suffix}"), pixels)


def test_a_picture_written_in_bands_is_the_whole_picture(tmp_path):
    pixels = picture(23, 31)
    with StreamWriter(tmp_path / "a.png", 23, 31) as writer:
        for top in range(0, 23, 5):
            writer.write(pixels[top : top + 5])
    assert np.array_equal(read_rgb(tmp_path / "a.png"), pixels)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_an_interrupted_write_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), StreamWriter(tmp_path / "a.png", 10, 4) as writer:
        writer.write(picture(5, 4))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_and_leaves_nothing(tmp_path):
    """The disk is full for the encoder only, which writes more than it reads."""
    code = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from sr_quant_cli.errors import FailedError\n"
        "from sr_quant_cli.imaging.io import write_rgb\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "pixels = np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (pixels.size, pixels.size))\n"
        "try:\n"
        "    write_rgb(Path(sys.argv[1]), pixels)\n"
        "except FailedError as error:\n"
        "    print(error)\n"
    )
    path = tmp_path / "a.png"
    ended = subprocess.run(
        [sys.executable, "-c", code, path], capture_output=True, text=True, check=True
    )
    assert ended.stdout == f"cannot write {path}: File too large\n"
    assert list(tmp_path.iterdir()) == []


def test_too_few_rows_are_an_error_and_leave_nothing(tmp_path):
    with (
        pytest.raises(FailedError, match=r"a\.png"),
        StreamWriter(tmp_path / "a.png", 10, 4) as writer,
    ):
        writer.write(picture(5, 4))
    assert list(tmp_path.iterdir()) == []


def test_grey_is_replicated_and_remembered(tmp_path):
    grey = picture(9, 7)[:, :, 0]
    opened = open_picture(save(tmp_path / "g.png", grey))
    assert opened.grey
    assert opened.alpha is None
    assert np.array_equal(read_rgb(tmp_path / "g.png"), np.repeat(grey[:, :, None], 3, axis=2))


def test_transparency_is_kept_apart(tmp_path):
    rgba = np.dstack([picture(9, 7), np.arange(63, dtype=np.uint8).reshape(9, 7)])
    opened = open_picture(save(tmp_path / "a.png", rgba))
    assert np.array_equal(opened.read(0, 9, 0, 7), rgba[:, :, :3])
    assert np.array_equal(opened.alpha.numpy(), rgba[:, :, 3])


def test_sixteen_bits_stay_unless_eight_are_asked_for(tmp_path):
    deep = np.random.default_rng(0).integers(0, 65536, (9, 7, 3), dtype=np.uint16)
    write_rgb(tmp_path / "d.png", deep)
    opened = open_picture(tmp_path / "d.png")
    assert (opened.bits, opened.losses) == (16, ())
    assert np.array_equal(opened.read(0, 9, 0, 7), deep)
    assert np.array_equal(read_rgb(tmp_path / "d.png"), np.rint(deep / 257))


def test_a_region_is_read_as_it_lies(tmp_path):
    pixels = picture(20, 30)
    write_rgb(tmp_path / "a.png", pixels)
    assert np.array_equal(open_picture(tmp_path / "a.png").read(3, 9, 5, 28), pixels[3:9, 5:28])


@pytest.mark.parametrize("content", [b"", b"hello", "truncated"])
def test_a_damaged_file_is_named_in_one_line(tmp_path, content):
    path = tmp_path / "bad.png"
    if content == "truncated":
        write_rgb(path, picture(64, 64))
        content = path.read_bytes()[:3000]
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"bad\.png") as caught:
        read_rgb(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "height", "alpha", "message"),
    [
        ("a.bmp", 5, False, r"must be one of \.png"),
        ("a.webp", 20000, False, "longest side 16383"),
        ("a.jpg", 5, True, "no transparency"),
    ],
)
def test_an_output_that_cannot_be_is_refused(tmp_path, name, height, alpha, message):
    with pytest.raises(UsageError, match=message):
        check_writable(tmp_path / name, height, 5, alpha=alpha)


@pytest.mark.parametrize(
    ("detail", "line"),
    [
        ("vips_tracked: out of memory -- size == 9GB\n", "out of memory: a.png cannot be read"),
        (
            "wbuffer_write: write failed\nsystem error: No space left on device\n",
            "no room for the pixels of a.png: No space left on device; "
            "set TMPDIR to a folder with room",
        ),
    ],
)
def test_want_of_room_is_no_fault_of_the_picture(detail, line):
    with pytest.raises(FailedError) as failed, readable(Path("a.png")):
        raise pyvips.Error("unable to call", detail)
    assert str(failed.value) == line


def test_a_large_picture_that_finds_no_temporary_folder(tmp_path, monkeypatch):
    """libvips uses a temporary file above 100 MB of pixels."""
    large = pyvips.Image.black(6000, 6000, bands=3).copy(interpretation="srgb")
    large.write_to_file(str(tmp_path / "large.png"), compression=1)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    with pytest.raises(FailedError, match=r"no room for the pixels of .*: No such file"):
        open_picture(tmp_path / "large.png").read(0, 1, 0, 1)
