"""Test2K, Test4K and Test8K, made from a few pictures in place of DIV8K."""

import json

import numpy as np
import pytest

from sr_quant_cli.data.benchmark import find_set
from sr_quant_cli.data.bicubic import resize
from sr_quant_cli.data.catalog import get_dataset
from sr_quant_cli.data.div8k import SELECTIONS, Selection, make, prepare
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb, write_rgb
from tests.helpers import picture


@pytest.fixture
def few(monkeypatch):
    """Reduce a set to three pictures with a longer side of 60 pixels."""
    monkeypatch.setitem(SELECTIONS, "Test2K", Selection(1201, 1203, 60))


@pytest.fixture
def div8k(tmp_path):
    folder = tmp_path / "div8k"
    write_rgb(folder / "1201.png", picture(90, 120))
    write_rgb(folder / "1202.webp", picture(121, 80, seed=1))
    write_rgb(folder / "1203.png", picture(30, 50, seed=2))
    write_rgb(folder / "1204.png", picture(30, 50))
    return folder


def test_the_longer_side_is_shrunk_and_both_divide_by_12(few, div8k, tmp_path):
    outcome = make("Test2K", div8k, tmp_path / "root")
    assert (outcome.made, outcome.kept, outcome.missing, outcome.damaged) == (3, 0, (), ())
    folder = tmp_path / "root/benchmark/Test2K/HR"
    assert [path.name for path in sorted(folder.iterdir())] == [f"120{i}.png" for i in (1, 2, 3)]
    # 90x120 becomes 45x60, cropped to 36x60; 121x80 becomes 60x40; 30x50 is no larger than 60.
    assert np.array_equal(read_rgb(folder / "1201.png"), resize(picture(90, 120), 45, 60)[:36])
    second = resize(picture(121, 80, seed=1), 60, 40)[:, :36]
    assert np.array_equal(read_rgb(folder / "1202.png"), second)
    assert np.array_equal(read_rgb(folder / "1203.png"), picture(30, 50, seed=2)[:24, :48])
    found = find_set("test2k", 4, tmp_path / "root")
    assert (len(found.pairs), found.lr_origin) == (3, "bicubic")
    assert found.pairs[0].load(4)[0].shape == (9, 15, 3)


def test_8k_pictures_keep_their_size():
    assert SELECTIONS["Test8K"].longest is None
    pixels = picture(50, 61)
    assert np.array_equal(prepare(pixels, None), pixels[:48, :60])


def test_the_papers_numbers():
    numbers = {name: (s.first, s.last, s.longest) for name, s in SELECTIONS.items()}
    assert numbers == {
        "Test2K": (1201, 1300, 2048),
        "Test4K": (1301, 1400, 4096),
        "Test8K": (1401, 1500, None),
    }
    assert SELECTIONS["Test2K"].names[0] == "1201"


def test_complete_pictures_are_kept_and_others_made_again(few, div8k, tmp_path):
    make("Test2K", div8k, tmp_path)
    folder = tmp_path / "benchmark/Test2K/HR"
    whole = (folder / "1203.png").read_bytes()
    write_rgb(folder / "1201.png", picture(12, 12))  # intact, so it is kept
    (folder / "1202.png").unlink()
    (folder / "1203.png").write_bytes(whole[: len(whole) // 2])
    outcome = make("Test2K", div8k, tmp_path)
    assert (outcome.made, outcome.kept) == (2, 1)
    assert (folder / "1203.png").read_bytes() == whole
    assert read_rgb(folder / "1201.png").shape == (12, 12, 3)


def test_the_command_makes_the_rest_and_names_what_is_missing(srq, few, div8k, tmp_path):
    (div8k / "1201.png").unlink()
    (div8k / "1203.png").write_bytes(b"no picture")
    command = ("data", "make", "test2k", "--from", div8k, "--data-root", tmp_path)
    code, out, err = srq(*command, "--json", tmp_path / "r.json")
    assert code == 1
    assert "1 pictures made, 0 kept" in out
    warning, error = err.splitlines()
    assert warning.startswith(f"srq: warning: cannot read {div8k / '1203.png'}: ")
    assert error.endswith("1 missing: 1201; 1 not readable: 1203")
    assert json.loads((tmp_path / "r.json").read_text())["missing"] == ["1201"]
    assert len(list((tmp_path / "benchmark/Test2K/HR").iterdir())) == 1
    write_rgb(div8k / "1201.png", picture(30, 30))
    write_rgb(div8k / "1203.png", picture(30, 30))
    assert srq(*command)[0] == 0


def test_what_cannot_be_made_is_refused(few, div8k, tmp_path):
    for name, source, message in [
        ("Set5", div8k, "known: Test2K, Test4K, Test8K"),
        ("Test2K", tmp_path / "none", "no such folder"),
        ("Test4K", div8k, "none of the pictures 1301 to 1400"),
    ]:
        with pytest.raises(UsageError, match=message):
            make(name, source, tmp_path)
    with pytest.raises(UsageError, match="less than 12 pixels"):
        prepare(picture(11, 40), None)
    write_rgb(div8k / "1201.jpg", picture(9, 9))
    with pytest.raises(UsageError, match=r"1201\.png and 1201\.jpg are both picture 1201"):
        make("Test2K", div8k, tmp_path)


def test_other_commands_point_to_it(srq, tmp_path):
    assert get_dataset("test8k").parts[0].pictures == 100
    for command in (
        ("data", "get", "Test2K"),
        ("eval", "--bench", "Test2K", "--data-root", tmp_path),
    ):
        code, _, err = srq(*command)
        assert code == 2
        assert "srq data make Test2K" in err
        assert err.count("\n") == 1
