"""Cache of decoded pictures: shared among processes, and repaired after damage."""

import os
import stat

import numpy as np
import pytest

from sr_quant_cli.data.benchmark import Pair
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.system.files import read_sealed, write_sealed
from tests.helpers import picture


@pytest.fixture
def pairs(tmp_path):
    for index in range(2):
        write_rgb(tmp_path / f"{index}.png", picture(12 + 2 * index, 16, index))
    return [Pair(f"{index}", tmp_path / f"{index}.png", None) for index in range(2)]


@pytest.fixture
def cached(tmp_path, monkeypatch):
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/pairs"


def test_the_folder_has_the_permissions_that_the_user_gives(pairs, cached):
    mask = os.umask(0o022)
    try:
        pack_pairs(pairs, 2)
    finally:
        os.umask(mask)
    (folder,) = cached.iterdir()
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (folder, *folder.iterdir())}
    assert modes == {folder.name: 0o755, "pairs.bin": 0o644, "index.json": 0o644}


def never(*_arguments, **_names):
    raise AssertionError("packed again")


@pytest.mark.parametrize("file", ["index.json", "pairs.bin"])
@pytest.mark.parametrize("damage", ["empty", "cut", "garbage", "absent"])
def test_what_is_damaged_is_made_anew(pairs, cached, monkeypatch, file, damage):
    store = pack_pairs(pairs, 2)
    wanted = [part.copy() for index in range(2) for part in store.pair(index)]
    (folder,) = cached.iterdir()
    path = folder / file
    whole = path.read_bytes()
    content = {"empty": b"", "cut": whole[:-1], "garbage": b"\xff garbage"}
    if damage == "absent":
        path.unlink()
    else:
        path.write_bytes(content[damage])
    again = pack_pairs(pairs, 2)
    found = [part for index in range(2) for part in again.pair(index)]
    assert all(np.array_equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert path.read_bytes() == whole
    assert list(cached.iterdir()) == [folder]
    monkeypatch.setattr("sr_quant_cli.data.store._pack", never)
    pack_pairs(pairs, 2)


def test_an_index_of_other_pictures_does_not_fit_the_pixels(pairs, cached):
    pack_pairs(pairs, 2)
    (folder,) = cached.iterdir()
    index = read_sealed(folder / "index.json")
    write_sealed(folder / "index.json", {**index, "lr_sizes": index["lr_sizes"][:1]})
    assert len(pack_pairs(pairs, 2)) == 2


def test_a_cache_that_cannot_be_written_is_named(pairs, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(FailedError, match="set SRQ_CACHE to a folder with room"):
        pack_pairs(pairs, 2)


def test_pixels_that_changed_are_not_trained_on(pairs, cached):
    """Their number is right; the checksum of a picture is not, and is looked at once."""
    pack_pairs(pairs, 2)
    (folder,) = cached.iterdir()
    whole = (folder / "pairs.bin").read_bytes()
    (folder / "pairs.bin").write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    store = pack_pairs(pairs, 2)
    store.pair(0)
    with pytest.raises(FailedError, match="damaged, and are removed; run the same command again"):
        store.pair(1)
    pack_pairs(pairs, 2).pair(1)
    assert (folder / "pairs.bin").read_bytes() == whole
