"""Many pictures, and a very large one: memory stays flat."""

import time

import numpy as np
import pytest
import pyvips

from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture

MEGABYTE = 2**20
FREE = {"memory": None, "cpu": 3000}


def resident(pid):
    """Resident memory of a process that is not shared with its parent, bytes."""
    with open(f"/proc/{pid}/smaps_rollup") as file:  # noqa: PTH123
        lines = dict(line.split(":", 1) for line in file if ":" in line)
    return sum(int(lines[name].split()[0]) * 1024 for name in ("Private_Dirty", "Private_Clean"))


def watched(child):
    """Resident memory of a child while it works, by the second."""
    found = []
    while child.running():
        try:
            found.append(resident(child.pid))
        except (OSError, KeyError):  # it has just ended
            break
        time.sleep(0.5)
    return found


@pytest.mark.hostile
def test_memory_is_flat_over_thousands_of_pictures(place, models):
    count = 2000
    for index in range(count):
        write_rgb(place.given / f"many/p{index}.png", picture(8, 8, index))
    child = place.start(
        *("upscale", place.given / "many", "-o", f"{place.made}/"),
        *("--model", models["program"], "--threads", 1),
        **FREE,
    )
    memory = watched(child)
    ended = child.end(600)
    assert ended.code == 0, ended
    assert len(list(place.made.iterdir())) == count
    early, late = memory[len(memory) // 4], memory[-2]
    assert late - early < 32 * MEGABYTE, memory


@pytest.mark.hostile
def test_a_large_tiff_is_streamed(place, models):
    """Neither the 48 megapixels of the input nor the 192 of the output are held at once."""
    width, height = 8000, 6000
    tile = pyvips.Image.new_from_array(picture(200, 200))
    tile.replicate(width // 200, height // 200).tiffsave(
        str(place.given / "large.tif"), tile=False, compression="none"
    )
    child = place.start(
        *("upscale", place.given / "large.tif", "-o", place.made / "l.tif"),
        *("--model", models["program"], "--threads", 1),
        **FREE,
    )
    memory = watched(child)
    ended = child.end(600)
    assert ended.code == 0, ended
    made = pyvips.Image.new_from_file(str(place.made / "l.tif"))
    assert (made.width, made.height) == (2 * width, 2 * height)
    assert np.ptp(made.crop(12_000, 9000, 64, 64).numpy()) > 50
    assert max(memory) < 1000 * MEGABYTE, [value // MEGABYTE for value in memory]
    print(f"{ended.seconds:.0f} s, {max(memory) // MEGABYTE} MB")
