"""Results of other projects in a folder: which file belongs to which picture."""

from pathlib import Path

import pytest

from sr_quant_cli.data.benchmark import find_set
from sr_quant_cli.data.sr_folder import SrFolder
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture


def made(tmp_path, names, bench="Set5"):
    for name in names:
        write_rgb(tmp_path / f"benchmark/{bench}/HR/{name}.png", picture(12, 12))
    return find_set(bench, 4, tmp_path)


def results(tmp_path, *files, inside=""):
    for name in files:
        write_rgb(tmp_path / "sr" / inside / name, picture(12, 12))
    return SrFolder(tmp_path / "sr")


@pytest.mark.parametrize(
    "files",
    [
        ["baby.png"],
        ["baby_x4_SR.png", "baby_x4_LR.png", "baby_x4_HR.png"],
        ["baby_x4_.png", "baby_x4_LR.png", "baby_x4_HR.png"],
        ["baby_SwinIR.png"],
        ["baby_31.23_.png"],
        ["baby_QuantSR_C_x4_4bit.png"],
        ["babyx4_EDSR.png", "babyx2_EDSR.png"],
        ["baby_x4_SR.png", "baby_x2_SR.png", "baby_x3_SR.png"],
        ["baby.png", "baby_other.png"],
    ],
)
@pytest.mark.parametrize("inside", ["", "Set5", "results-Set5"])
def test_names_of_other_projects(tmp_path, files, inside):
    bench = made(tmp_path, ["baby"])
    found = results(tmp_path, *files, inside=inside).find(bench, bench.pairs[0])
    assert found == tmp_path / "sr" / inside / files[0]


def test_another_name_of_the_set(tmp_path):
    bench = made(tmp_path, ["101085"], "B100")
    found = results(tmp_path, "101085_x4_SR.png", inside="results-BSD100")
    assert found.find(bench, bench.pairs[0]).name == "101085_x4_SR.png"


def test_a_file_belongs_to_the_picture_with_the_longest_name(tmp_path):
    bench = made(tmp_path, ["img_1", "img_1_b", "img_10"])
    folder = results(tmp_path, "img_1_SwinIR.png", "img_1_b_SwinIR.png", "img_10_SwinIR.png")
    for pair in bench.pairs:
        assert folder.find(bench, pair).name == f"{pair.name}_SwinIR.png"


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["baby_a.png", "baby_b.png"], "has several pictures of baby (Set5): baby_a.png, baby_b.p"),
        (["babylon_SR.png"], "has no picture of baby (Set5): no file at x4 begins with baby"),
        (["baby_x2_SR.png"], "has no picture of baby (Set5)"),
        (["baby_x4_LR.png"], "has no picture of baby (Set5)"),
        (["baby_bird.png"], "has no picture of baby (Set5)"),
    ],
)
def test_what_is_missing_or_ambiguous_is_one_line(tmp_path, files, message):
    bench = made(tmp_path, ["baby", "baby_bird"])
    with pytest.raises(UsageError) as error:
        results(tmp_path, *files).find(bench, bench.pairs[0])
    assert str(error.value).startswith(f"`sr_dir`: {Path(tmp_path / 'sr')}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
