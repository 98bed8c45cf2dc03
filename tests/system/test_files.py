import json
import os
import signal
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from filelock import FileLock, Timeout

from sr_quant_cli import __version__
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.system import files
from sr_quant_cli.system.files import (
    cache_dir,
    check_outputs,
    check_own,
    leftovers,
    replacing,
    scratch,
    sweep,
    write_json,
)


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "deep/er/a.json"
    mask = os.umask(0o022)
    try:
        write_json(path, {"a": 1})
    finally:
        os.umask(mask)
    assert path.read_text() == f'{{\n  "srq": "{__version__}",\n  "a": 1\n}}\n'
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_an_error_inside_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(FailedError, match=r"cannot write .*file/a"):
        write_json(tmp_path / "file/a.json", {})


@pytest.mark.parametrize("letter", ["a", "ä"])
def test_the_longest_name_that_the_file_system_takes_can_be_written(tmp_path, letter):
    stem = letter * ((255 - len(".png")) // len(letter.encode()))
    with replacing(tmp_path / f"{stem}.png") as temporary:
        assert temporary.suffix == ".png"
        temporary.write_text("pixels")
    assert [path.name for path in tmp_path.iterdir()] == [f"{stem}.png"]
    with pytest.raises(FailedError, match="name too long"), replacing(tmp_path / f"{stem}ää.png"):
        pass


def test_a_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far/a.txt").write_text("old")
    (tmp_path / "link").symlink_to("far/a.txt")
    with replacing(tmp_path / "link") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far/a.txt").read_text() == "new"


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "folder"):
        refused = pytest.raises(FailedError, match=f"{name}: it is no regular file")
        with refused, replacing(tmp_path / name) as temporary:
            temporary.write_text("x")
        with pytest.raises(UsageError, match=f"{name} is no regular file"):
            write_json(tmp_path / name, {})
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "pipe"]


def test_a_killed_process_s_temporary_files_go_with_the_next_writer(tmp_path, monkeypatch):
    """Folders in use stay, and so do files of the user."""
    own = [".my.part-of-thesis.txt", ".srq-tmp-notes.txt", ".hidden/a.txt", ".srq-tmp-mine/a.txt"]
    for name in own:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from sr_quant_cli.system.files import replacing\n"
        "with replacing(Path(sys.argv[1])) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('writing', flush=True)\n"
        "    input()\n"
    )
    command = [sys.executable, "-c", code, tmp_path / "a.txt"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout.readline() == b"writing\n"
        monkeypatch.setattr(files, "_swept", set())
        with replacing(tmp_path / "b.txt") as temporary:
            temporary.write_text("b")
        (busy,) = leftovers(tmp_path)
        assert (busy / "a.txt").read_text() == "half"
        writer.send_signal(signal.SIGKILL)
    assert leftovers(tmp_path) == [busy]
    # Once is enough for a process: a folder may be large.
    with replacing(tmp_path / "b.txt") as temporary:
        temporary.write_text("b")
    assert leftovers(tmp_path) == [busy]
    monkeypatch.setattr(files, "_swept", set())
    with replacing(tmp_path / "b.txt") as temporary:
        temporary.write_text("b")
    assert leftovers(tmp_path) == []
    assert all((tmp_path / name).read_text() == "mine" for name in own)
    assert not (tmp_path / "a.txt").exists()


@pytest.mark.slow
def test_sweeping_leaves_writers_of_this_process_alone(tmp_path):
    stop = threading.Event()

    def sweep_all_the_time():
        while not stop.is_set():
            sweep(tmp_path)

    sweeper = threading.Thread(target=sweep_all_the_time)
    sweeper.start()
    try:
        for count in range(100):
            with replacing(tmp_path / "a.txt") as temporary:
                temporary.write_text(f"{count}")
            assert (tmp_path / "a.txt").read_text() == f"{count}"
    finally:
        stop.set()
        sweeper.join()
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(files.fcntl is None, reason="locks of filelock are the only ones here")
def test_locks_are_those_of_filelock(tmp_path, monkeypatch):
    """Other systems, and other versions of srq, lock the folder by filelock."""
    with files.scratch(tmp_path) as folder, pytest.raises(Timeout):
        FileLock(folder / "srq.lock", timeout=0).acquire()
    monkeypatch.setattr(files, "fcntl", None)
    with files.scratch(tmp_path) as folder:
        monkeypatch.undo()
        files.sweep(tmp_path)
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())


def test_a_scratch_folder_is_private_and_goes(tmp_path):
    with pytest.raises(ZeroDivisionError), scratch(tmp_path / "new") as folder:
        assert folder.parent == tmp_path / "new"
        assert folder.name.startswith(".")
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        (folder / "rows").write_text("many")
        raise ZeroDivisionError
    assert list((tmp_path / "new").iterdir()) == []


def test_a_report_replaces_reports_and_empty_files_alone(tmp_path):
    path = tmp_path / "r.json"
    path.touch()
    write_json(path, {"a": 1})
    write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"srq": __version__, "a": 2}
    for content in ('{"a": 1}', '{\n  "a": {\n    "srq": "1"\n  }\n}', "[]", "a photograph"):
        path.write_text(content)
        with pytest.raises(UsageError, match=r"r\.json exists, and srq did not write it"):
            write_json(path, {})
        assert path.read_text() == content


def test_a_model_file_is_no_report(tiny_model):
    before = tiny_model.read_bytes()
    with pytest.raises(UsageError, match="srq did not write it"):
        write_json(tiny_model, {})
    assert tiny_model.read_bytes() == before


def test_numbers_that_json_has_not_are_null(tmp_path):
    values = {"psnr": float("inf"), "rows": [{"x": float("nan")}, (1.5, float("-inf"))]}
    write_json(tmp_path / "r.json", values)
    found = json.loads((tmp_path / "r.json").read_text(), parse_constant=pytest.fail)
    assert found == {"srq": __version__, "psnr": None, "rows": [{"x": None}, [1.5, None]]}


def test_what_cannot_be_looked_at_is_not_replaced(tmp_path):
    with pytest.raises(UsageError, match=r"cannot look at .*name too long"):
        check_own(tmp_path / ("a" * 5000), files.REPORT)


def test_outputs_are_no_inputs_and_differ(tmp_path):
    model, link = tmp_path / "m.safetensors", tmp_path / "l.json"
    link.symlink_to(model)
    for given in (model, link, tmp_path / "x/../m.safetensors"):
        with pytest.raises(UsageError, match=f"^`json` {given}: is an input of this command$"):
            check_outputs({"output": Path("o.png"), "json": given}, [None, model])
    with pytest.raises(UsageError, match=r"^`json` o\.png: is what `output` writes, too$"):
        check_outputs({"output": Path("o.png"), "json": Path("o.png")}, [model])
    check_outputs({"output": None, "json": None}, [model, model])


def test_a_file_is_no_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "new"))
    assert cache_dir() == tmp_path / "new"
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("SRQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match=r"^SRQ_CACHE=.*file is a file: name a folder"):
        cache_dir()
