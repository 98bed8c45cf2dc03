"""Entries of the cache: believed only if nobody else can change them, and bounded in size."""

import os
import stat
import time

import pytest

from sr_quant_cli.system import cached
from sr_quant_cli.system.cached import claim, mark_used, prune, trusted

pytestmark = pytest.mark.skipif(os.name == "nt", reason="permissions are those of POSIX")


def test_a_folder_that_others_can_change_is_not_believed(tmp_path):
    folder = tmp_path / "entry"
    assert not trusted(folder)
    assert claim(folder)
    assert trusted(folder)
    (folder / "graph").write_text("somebody else's")
    folder.chmod(0o777)
    assert not trusted(folder)
    mask = os.umask(0)
    try:
        assert claim(folder)
    finally:
        os.umask(mask)
    assert not list(folder.iterdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o775


def test_neither_links_nor_folders_of_another_user_are_believed(tmp_path, monkeypatch):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "link").symlink_to("theirs")
    assert not trusted(tmp_path / "link")
    assert not claim(tmp_path / "link")
    monkeypatch.setattr("os.geteuid", lambda: 54321)
    owner = (tmp_path / "theirs").stat().st_uid
    assert trusted(tmp_path / "theirs") == (owner == 0)  # root may change everything anyway


@pytest.fixture
def entries(tmp_path, monkeypatch):
    """Four entries of 100 bytes each, used two to five hours ago, and a limit of 250 bytes."""
    kinds = {"graphs": cached.CacheKind("", 250)}
    monkeypatch.setattr(cached, "KINDS", kinds)
    made = []
    for index in range(4):
        entry = tmp_path / "graphs" / f"{index}"
        entry.mkdir(parents=True)
        (entry / "graph.onnx").write_bytes(bytes(100))
        used = time.time() - 3600 * (5 - index)
        os.utime(entry, (used, used))
        made.append(entry)
    return made


def test_the_entries_unused_for_longest_go(entries):
    mark_used(entries[0])
    (entries[0].parent / ".lock").write_text("")
    prune(entries[0].parent)
    assert [entry.exists() for entry in entries] == [True, False, False, True]
    assert (entries[0].parent / ".lock").exists()


def test_entries_in_use_and_small_caches_stay(entries, monkeypatch):
    for entry in entries:
        mark_used(entry)
    prune(entries[0].parent)
    assert all(entry.exists() for entry in entries)
    monkeypatch.setattr(cached, "KINDS", {"graphs": cached.CacheKind("", 400)})
    os.utime(entries[0], (0, 0))
    prune(entries[0].parent)
    assert all(entry.exists() for entry in entries)


def test_folders_that_are_no_part_of_the_cache_are_left_alone(tmp_path):
    (tmp_path / "others").mkdir()
    (tmp_path / "others/a").write_bytes(bytes(10))
    prune(tmp_path / "others")
    prune(tmp_path / "absent")
    assert (tmp_path / "others/a").exists()
