import os
import stat

import pytest

from sr_quant_cli.errors import FailedError
from sr_quant_cli.files import replacing, write_json


def test_a_file_appears_whole_with_ordinary_permissions(tmp_path):
    path = tmp_path / "deep/er/a.json"
    mask = os.umask(0o022)
    try:
        write_json(path, {"a": 1})
    finally:
        os.umask(mask)
    assert path.read_text() == '{\n  "a": 1\n}\n'
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
