import shutil

import numpy as np
import pytest
import torch

from sr_quant_cli.data.benchmark import Pair
from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.data.photographs import find_photographs, is_named_set
from sr_quant_cli.data.sampler import DevicePatches, PatchSampler
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.system.files import cache_dir
from tests.helpers import picture


def store_of(folder, scale=2):
    photographs = find_photographs(str(folder), scale)
    return pack_pairs(photographs.train, scale)


def test_packed_pairs_are_the_pictures_and_their_bicubic(photographs):
    pairs = find_photographs(str(photographs), 3).train
    store = pack_pairs(pairs, 3)
    assert len(store) == len(pairs) == 5
    for index, pair in enumerate(pairs):
        lr, hr = store.pair(index)
        whole = read_rgb(pair.hr)
        assert np.array_equal(hr, whole[: hr.shape[0], : hr.shape[1]])
        assert np.array_equal(lr, downscale(whole, 3))


def test_packing_is_done_once_and_again_when_a_picture_changes(photographs):
    store_of(photographs)
    packs = cache_dir() / "pairs"
    (first,) = packs.iterdir()
    stamp = (first / "pairs.bin").stat().st_mtime_ns
    store_of(photographs)
    assert (first / "pairs.bin").stat().st_mtime_ns == stamp
    write_rgb(photographs / "p3.png", picture(60, 60, seed=9))
    store_of(photographs)
    assert len(list(packs.iterdir())) == 2


def test_a_failed_packing_leaves_nothing(photographs):
    (photographs / "p4.png").write_text("no picture")
    with pytest.raises(UsageError, match=r"p4\.png"):
        store_of(photographs)
    assert list((cache_dir() / "pairs").iterdir()) == []


@pytest.mark.parametrize(("folder", "name"), [("set5/HR", "Set5"), ("BSDS100", "B100")])
def test_nothing_is_trained_or_validated_on_a_test_set(photographs, tmp_path, folder, name):
    shutil.copytree(photographs, tmp_path / folder)
    for train in (tmp_path / folder, (tmp_path / folder.partition("/")[0])):
        with pytest.raises(UsageError, match=rf"data\.train = .*: {name} is a test set"):
            find_photographs(str(train), 2)


def sampler(store, augment=("hflip", "vflip", "transpose"), **changes):
    settings = {"seed": 0, "patch_hr": 16, "batch": 8} | changes
    return PatchSampler(store, augment=augment, **settings)


def test_batches_are_a_function_of_seed_and_step(photographs):
    store = store_of(photographs)
    lr, hr = sampler(store).batch(7)
    assert lr.shape == (8, 8, 8, 3)
    assert hr.shape == (8, 16, 16, 3)
    again = sampler(store)
    again.batch(3)
    assert np.array_equal(again.batch(7)[1], hr)
    assert not np.array_equal(sampler(store).batch(8)[1], hr)
    assert not np.array_equal(sampler(store, seed=1).batch(7)[1], hr)


def test_lr_and_hr_patches_stay_aligned_under_augmentation(tmp_path):
    # Blocks of scale x scale equal pixels: LR is HR without repetition, so alignment is exact.
    small = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    write_rgb(tmp_path / "d/HR/a.png", small.repeat(2, 0).repeat(2, 1))
    write_rgb(tmp_path / "lr/a.png", small)
    store = pack_pairs([Pair("a", tmp_path / "d/HR/a.png", tmp_path / "lr/a.png")], 2)
    lr, hr = sampler(store, batch=64).batch(0)
    assert np.array_equal(lr.repeat(2, 1).repeat(2, 2), hr)


def test_all_eight_orientations_occur_and_only_when_asked(tmp_path):
    asymmetric = np.zeros((16, 16, 3), np.uint8)
    asymmetric[:4, :8] = 200
    write_rgb(tmp_path / "d/a.png", asymmetric)
    store = pack_pairs([Pair("a", tmp_path / "d/a.png", None)], 2)
    augmented = sampler(store, batch=200).batch(0)[1]
    assert len({patch.tobytes() for patch in augmented}) == 8
    plain = sampler(store, batch=50, augment=()).batch(0)[1]
    assert len({patch.tobytes() for patch in plain}) == 1
    flipped = sampler(store, batch=50, augment=("hflip",)).batch(0)[1]
    assert {patch.tobytes() for patch in flipped} == {
        asymmetric.tobytes(),
        np.ascontiguousarray(asymmetric[:, ::-1]).tobytes(),
    }


def test_patches_cut_on_a_device_are_the_same(photographs):
    store = store_of(photographs, scale=3)
    drawn = sampler(store, patch_hr=15, batch=64)
    lr, hr = drawn.batch(4)
    on_device = DevicePatches(drawn, torch.device("cpu")).batch(4)
    assert np.array_equal(on_device[0].numpy(), lr)
    assert np.array_equal(on_device[1].numpy(), hr)


def test_processes_share_a_batch(photographs):
    store = store_of(photographs)
    whole = sampler(store).batch(5)[1]
    parts = [sampler(store, part=(rank, 4)).batch(5)[1] for rank in range(4)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_all_common_formats_are_trained_on(tmp_path):
    for suffix in ("png", "jpg", "webp", "tif"):
        write_rgb(tmp_path / "d" / f"{suffix}.{suffix}", picture(40, 48))
    photographs = find_photographs(str(tmp_path / "d"), 2)
    names = {pair.name for pair in (*photographs.train, *photographs.validation)}
    assert names == {"png", "jpg", "webp", "tif"}
    store = pack_pairs(photographs.train, 2)
    assert all(np.ptp(store.pair(index)[1]) > 100 for index in range(len(store)))


def test_pictures_are_drawn_by_their_area(tmp_path):
    for name, value, width in (("a", 0, 40), ("b", 255, 120)):
        write_rgb(tmp_path / f"{name}.png", np.full((40, width, 3), value, np.uint8))
    pairs = [Pair(name, tmp_path / f"{name}.png", None) for name in "ab"]
    hr = sampler(pack_pairs(pairs, 2), batch=2000).batch(0)[1]
    assert hr[:, 0, 0, 0].mean() / 255 == pytest.approx(0.75, abs=0.03)


def test_a_picture_smaller_than_a_patch_is_refused(photographs):
    with pytest.raises(UsageError) as caught:
        sampler(store_of(photographs), patch_hr=48)
    assert str(caught.value) == (
        "p1.png (26x21), p2.png (26x22), p3.png (26x23) of 5 training pictures: in LR smaller than "
        "a patch of 24x24; lower data.patch_hr, or remove them"
    )


def test_held_out_files_are_not_trained_on(photographs):
    found = find_photographs(str(photographs), 2, validation=["p[01].*"])
    assert [pair.name for pair in found.validation] == ["p0", "p1"]
    assert [pair.name for pair in found.train] == ["p2", "p3", "p4", "p5"]
    with pytest.raises(UsageError, match=r"no file of .* matches"):
        find_photographs(str(photographs), 2, validation=["x*"])


def test_lr_folders_are_used_where_they_are(tmp_path, photographs):
    hr = tmp_path / "set/HR"
    shutil.copytree(photographs, hr)
    for path in hr.iterdir():
        dark = np.zeros_like(downscale(read_rgb(path), 2))
        write_rgb(tmp_path / f"set/LR_bicubic/X2/{path.stem}x2.png", dark)
    data = str(tmp_path / "set")
    assert store_of(data).pair(0)[0].max() == 0
    made = find_photographs(data, 2, lr="bicubic")
    assert all(pair.lr is None for pair in made.train)
    with pytest.raises(UsageError, match="LR_bicubic/X4"):
        find_photographs(data, 4, lr="folder")


def test_div2k_is_validated_on_its_own_part(tmp_path, photographs):
    shutil.copytree(photographs, tmp_path / "DIV2K/DIV2K_train_HR")
    with pytest.raises(UsageError, match="DIV2K_valid_HR"):
        find_photographs("DIV2K", 2, root=tmp_path)
    shutil.copytree(photographs, tmp_path / "DIV2K/DIV2K_valid_HR")
    found = find_photographs("DIV2K", 2, root=tmp_path)
    assert len(found.train) == len(found.validation) == 6
    assert found.name == "DIV2K"


@pytest.fixture
def df2k(tmp_path):
    for folder, count in (("DIV2K/DIV2K_train_HR", 3), ("DIV2K/DIV2K_valid_HR", 2)):
        for index in range(count):
            write_rgb(tmp_path / folder / f"{index:04}.png", picture(24, 24))
    for index in range(4):
        write_rgb(tmp_path / f"Flickr2K/Flickr2K_HR/{index:06}.png", picture(24, 24))
        write_rgb(tmp_path / f"Flickr2K/Flickr2K_LR_bicubic/X2/{index:06}x2.png", picture(12, 12))
    return tmp_path


@pytest.mark.parametrize("name", ["DIV2K+Flickr2K", "flickr2k + div2k", "DF2K"])
def test_several_sets_are_validated_on_what_one_holds_out(df2k, name):
    found = find_photographs(name, 2, root=df2k)
    assert is_named_set(name)
    assert (len(found.train), len(found.validation)) == (7, 2)
    assert found.name in ("DIV2K+Flickr2K", "Flickr2K+DIV2K", "DF2K")
    assert found.lr_origin == "LR of 3 made by bicubic, the others from files"
    split = find_photographs(name, 2, root=df2k, validation=["000000.png"])
    assert [pair.name for pair in split.validation] == ["000000"]


def test_df2k_in_one_folder(tmp_path):
    for index in range(5):
        write_rgb(tmp_path / f"DF2K/HR/{index}.png", picture(24, 24))
        write_rgb(tmp_path / f"DF2K/LR_bicubic/X4/{index}x4.png", picture(6, 6))
    found = find_photographs("DF2K", 4, root=tmp_path)
    assert (found.name, len(found.train), len(found.validation)) == ("DF2K", 4, 1)
    assert found.lr_origin == "LR from files"


def test_what_is_missing_of_several_sets_is_named(df2k):
    shutil.rmtree(df2k / "Flickr2K")
    with pytest.raises(UsageError, match="Flickr2K_HR: get them with 'srq data get Flickr2K'"):
        find_photographs("DF2K", 2, root=df2k)
    assert not is_named_set("DIV2K+photos")


@pytest.mark.parametrize("inside", ["", "HR"])
def test_an_own_lr_folder_beside_hr_is_used_or_told(tmp_path, monkeypatch, inside):
    told = []
    monkeypatch.setattr("sr_quant_cli.data.benchmark.note", told.append)
    for index in range(3):
        write_rgb(tmp_path / f"mine/HR/{index}.png", picture(24, 24))
        write_rgb(tmp_path / f"mine/LR/{index}.png", picture(12, 12))
    found = find_photographs(str(tmp_path / "mine" / inside), 2)
    assert (found.name, found.lr_origin, told) == ("mine", "LR from files", [])
    found = find_photographs(str(tmp_path / "mine" / inside), 3)
    assert found.lr_origin == "LR made by bicubic"
    assert told == [f"{tmp_path / 'mine/LR'} is not used: 0.png is not 1/3 of 0.png"]


def test_sample_photographs_are_real_and_apart():
    found = find_photographs("sample", 4)
    assert not set(found.train) & set(found.validation)
    for pair in (*found.train, *found.validation):
        lr, hr = pair.load(4)
        assert min(lr.shape[:2]) >= 48
        assert hr.std() > 20
