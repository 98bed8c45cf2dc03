from pathlib import Path

import numpy as np
import pytest
import pyvips

from sr_quant_cli.data.benchmark import Pair, data_root, find_set, pair_up, parse_sets
from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import write_rgb


def picture(path, height, width, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_rgb(path, pixels)
    return pixels


@pytest.mark.parametrize("folder", ["benchmark/Set5", "Set5"])
@pytest.mark.parametrize("name", ["Set5", "set5", "SET5"])
def test_both_places_and_any_case(tmp_path, folder, name):
    picture(tmp_path / folder / "HR/baby.png", 16, 12)
    found = find_set(name, 4, tmp_path)
    assert (found.name, found.scale, found.lr_origin) == ("Set5", 4, "bicubic")
    assert found.pairs == (Pair("baby", tmp_path / folder / "HR/baby.png", None),)


@pytest.mark.parametrize("folder", ["B100", "BSD100", "BSDS100"])
@pytest.mark.parametrize("name", ["B100", "BSD100", "bsds100"])
def test_other_names_of_b100(tmp_path, folder, name):
    picture(tmp_path / folder / "HR/img_001.png", 16, 12)
    assert find_set(name, 2, tmp_path).name == "B100"


def test_benchmark_folder_goes_first(tmp_path):
    picture(tmp_path / "Set5/HR/other.png", 16, 12)
    picture(tmp_path / "benchmark/Set5/HR/baby.png", 16, 12)
    assert [pair.name for pair in find_set("Set5", 4, tmp_path).pairs] == ["baby"]


@pytest.mark.parametrize(
    ("hr", "lr", "name"),
    [
        ("baby", "babyx4", "baby"),
        ("baby", "baby", "baby"),
        ("baby", "baby_LRBI_x4", "baby"),
        ("baby_HR_x4", "baby_LRBI_x4", "baby"),
        ("img_001_SRF_4_HR", "img_001_SRF_4_LR", "img_001"),
        ("img_001_SRF_4_HR", "img_001x4", "img_001"),
        ("0801", "0801x4", "0801"),
        ("streetx2", "streetx2", "streetx2"),
        ("streetx2", "streetx2x4", "streetx2"),
    ],
)
def test_file_names_of_the_packs(tmp_path, hr, lr, name):
    folder = tmp_path / "benchmark/Urban100"
    hr_pixels = picture(folder / f"HR/{hr}.png", 17, 15)
    lr_pixels = picture(folder / f"LR_bicubic/X4/{lr}.png", 4, 3, seed=1)
    found = find_set("Urban100", 4, tmp_path)
    assert found.lr_origin == "folder"
    (pair,) = found.pairs
    assert (pair.name, pair.hr.stem, pair.lr.stem) == (name, hr, lr)
    read_lr, read_hr = pair.load(4)
    np.testing.assert_array_equal(read_lr, lr_pixels)
    np.testing.assert_array_equal(read_hr, hr_pixels[:16, :12])


def test_each_scale_has_its_own_lr(tmp_path):
    picture(tmp_path / "Set5/HR/baby.png", 24, 24)
    for scale in (2, 4):
        picture(tmp_path / f"Set5/LR_bicubic/X{scale}/babyx{scale}.png", 24 // scale, 24 // scale)
    for scale in (2, 4):
        (pair,) = find_set("Set5", scale, tmp_path).pairs
        assert pair.lr.name == f"babyx{scale}.png"
    assert find_set("Set5", 3, tmp_path).lr_origin == "bicubic"


def test_pairs_are_sorted_and_other_files_ignored(tmp_path):
    for name in ("woman", "baby", "head"):
        picture(tmp_path / f"Set5/HR/{name}.png", 16, 16)
    (tmp_path / "Set5/HR/readme.txt").write_text("not a picture")
    assert [pair.name for pair in find_set("Set5", 2, tmp_path).pairs] == ["baby", "head", "woman"]


def test_folder_of_the_user(tmp_path):
    picture(tmp_path / "holidays/beach.png", 16, 16)
    found = find_set("holidays", 2, tmp_path)
    assert (found.name, found.pairs[0].name, found.lr_origin) == ("holidays", "beach", "bicubic")


def test_lr_is_made_of_hr_cropped_to_a_multiple(tmp_path):
    hr_pixels = picture(tmp_path / "baby.png", 17, 23)
    lr, hr = Pair("baby", tmp_path / "baby.png", None).load(3)
    np.testing.assert_array_equal(hr, hr_pixels[:15, :21])
    np.testing.assert_array_equal(lr, downscale(hr_pixels, 3))


def test_grey_is_replicated(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (12, 8), dtype=np.uint8)
    pyvips.Image.new_from_array(grey).write_to_file(str(tmp_path / "bridge.png"))
    lr, hr = Pair("bridge", tmp_path / "bridge.png", None).load(2)
    np.testing.assert_array_equal(hr, np.stack([grey] * 3, axis=2))
    assert lr.shape == (6, 4, 3)


def test_missing_set_names_places_and_remedy(tmp_path):
    with pytest.raises(UsageError) as error:
        find_set("bsd100", 4, tmp_path)
    message = str(error.value)
    assert "\n" not in message
    for folder in (tmp_path / "benchmark", tmp_path):
        for name in ("B100", "BSD100", "BSDS100"):
            assert str(folder / name) in message
    assert "srq data get B100" in message


def test_missing_registered_set_is_not_promised(tmp_path):
    with pytest.raises(UsageError, match="registration") as error:
        find_set("Manga109", 4, tmp_path)
    assert "srq data get" not in str(error.value)


def test_unknown_set_suggests(tmp_path):
    with pytest.raises(UsageError, match=r"unknown benchmark set 'Set51': did you mean 'Set5'\?"):
        find_set("Set51", 4, tmp_path)


def test_one_missing_lr(tmp_path):
    for name in ("baby", "bird"):
        picture(tmp_path / f"Set5/HR/{name}.png", 16, 16)
    picture(tmp_path / "Set5/LR_bicubic/X4/babyx4.png", 4, 4)
    with pytest.raises(UsageError, match="X4: no LR of bird"):
        find_set("Set5", 4, tmp_path)


@pytest.mark.parametrize("size", [(5, 4), (4, 5), (3, 4), (16, 16)])
def test_lr_of_a_wrong_size(tmp_path, size):
    picture(tmp_path / "hr.png", 18, 17)
    picture(tmp_path / "lr.png", *size)
    pair = Pair("x", tmp_path / "hr.png", tmp_path / "lr.png")
    with pytest.raises(UsageError, match=rf"lr.png: {size[1]}x{size[0]} is not 1/4 of .*4x4 expec"):
        pair.load(4)


def test_hr_smaller_than_the_scale(tmp_path):
    picture(tmp_path / "dot.png", 3, 40)
    with pytest.raises(UsageError, match=r"dot.png: 40x3 is too small for x4"):
        Pair("dot", tmp_path / "dot.png", None).load(4)


def test_two_files_of_one_name(tmp_path):
    for scale in (2, 4):
        picture(tmp_path / f"Urban100/HR/img_001_SRF_{scale}_HR.png", 16, 16)
    with pytest.raises(UsageError, match="both 'img_001'"):
        find_set("Urban100", 2, tmp_path)


def test_empty_folder(tmp_path):
    (tmp_path / "Set5/HR").mkdir(parents=True)
    with pytest.raises(UsageError, match="no pictures in"):
        find_set("Set5", 2, tmp_path)


def test_pair_up_without_lr(tmp_path):
    picture(tmp_path / "b.png", 8, 8)
    picture(tmp_path / "a.png", 8, 8)
    expected = (Pair("a", tmp_path / "a.png", None), Pair("b", tmp_path / "b.png", None))
    assert pair_up(tmp_path, None) == expected


def test_parse_sets():
    assert parse_sets("Set5+Set14") == ["Set5", "Set14"]
    assert parse_sets("urban100 + BSDS100+B100") == ["Urban100", "B100"]
    assert parse_sets("holidays") == ["holidays"]
    for text in ("", "Set5+", "+Set5", "Set5++B100"):
        with pytest.raises(UsageError, match="an empty name"):
            parse_sets(text)


def test_data_root(monkeypatch):
    monkeypatch.setenv("SRQ_DATA", "/somewhere")
    assert data_root(Path("here")) == Path("here")
    assert data_root(None) == Path("/somewhere")
    monkeypatch.setenv("SRQ_DATA", "")
    assert data_root(None) == Path("datasets")
    monkeypatch.delenv("SRQ_DATA")
    assert data_root(None) == Path("datasets")


def test_real_sets(real_data):
    assert [len(find_set(name, 4, real_data).pairs) for name in ("Set5", "Set14", "B100")] == [
        5,
        14,
        100,
    ]
    assert find_set("B100", 2, real_data).lr_origin == "bicubic"
    bridge = next(p for p in find_set("Set14", 4, real_data).pairs if p.name == "bridge")
    lr, hr = bridge.load(4)
    assert hr.shape == (lr.shape[0] * 4, lr.shape[1] * 4, 3)
    assert (hr[..., 0] == hr[..., 2]).all()


@pytest.mark.parametrize(
    ("hr", "lr"),
    [
        ("HR/baby", "LR_bicubic/X4/babyx4"),
        ("GTmod12/baby", "LRbicx4/baby"),
        ("HR/baby", "LR/X4/baby"),
        ("HR/baby", "LR/x4/babyx4"),
        ("HR/baby", "LR/baby"),
        ("image_SRF_4/baby_SRF_4_HR", "image_SRF_4/baby_SRF_4_LR"),
    ],
)
def test_folders_as_other_projects_lay_them_out(tmp_path, hr, lr):
    home = tmp_path / "Set5"
    picture(home / f"{hr}.png", 18, 17)
    pixels = picture(home / f"{lr}.png", 4, 4, seed=1)
    if hr.startswith("image"):
        picture(home / "image_SRF_4/baby_SRF_4_bicubic.png", 18, 17)
    found = find_set("Set5", 4, tmp_path)
    assert (found.lr_origin, [pair.name for pair in found.pairs]) == ("folder", ["baby"])
    np.testing.assert_array_equal(found.pairs[0].load(4)[0], pixels)


def test_an_lr_folder_of_another_scale_is_told(tmp_path, monkeypatch):
    picture(tmp_path / "Set5/HR/baby.png", 18, 17)
    picture(tmp_path / "Set5/LR/baby.png", 4, 4)
    told = []
    monkeypatch.setattr("sr_quant_cli.data.benchmark.note", told.append)
    assert find_set("Set5", 4, tmp_path).lr_origin == "folder"
    assert told == []
    assert find_set("Set5", 2, tmp_path).lr_origin == "bicubic"
    assert told == [f"{tmp_path / 'Set5/LR'} is not used: baby.png is not 1/2 of baby.png"]


def test_the_layouts_are_named_where_there_are_no_pictures(tmp_path):
    (tmp_path / "Set5/original").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"no pictures in .*Set5; .* HR, GTmod12, image_SRF_4$"):
        find_set("Set5", 4, tmp_path)


def test_the_validation_part_of_div2k_is_a_bench(tmp_path):
    with pytest.raises(UsageError, match=r"DIV2K_valid_HR; get them with 'srq data get DIV2K_val"):
        find_set("DIV2K", 4, tmp_path)
    picture(tmp_path / "DIV2K/DIV2K_train_HR/0001.png", 16, 16)
    picture(tmp_path / "DIV2K/DIV2K_valid_HR/0801.png", 16, 16)
    picture(tmp_path / "DIV2K/DIV2K_valid_LR_bicubic/X4/0801x4.png", 4, 4)
    (name,) = parse_sets("div2k")
    found = find_set(name, 4, tmp_path)
    assert (found.name, found.lr_origin) == ("DIV2K", "folder")
    assert [pair.name for pair in found.pairs] == ["0801"]
    assert find_set(name, 2, tmp_path).lr_origin == "bicubic"
