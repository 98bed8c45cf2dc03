"""Plugins of single files: the option ``--plugin``."""

import pytest

from sr_quant_cli.imaging.io import read_rgb, write_rgb
from sr_quant_cli.modelfiles.modelfile import read_header
from tests.helpers import picture
from tests.plugins.conftest import forget, srq_tqt
from tests.plugins.test_packages import SMALL


@pytest.fixture
def module(tmp_path):
    path = tmp_path / "my_method.py"
    path.write_text(srq_tqt())
    return path


def told(path):
    return f"srq: warning: {path} runs as a part of srq: use files that you trust\n"


def test_a_file_serves_anywhere_on_the_line(srq, module, monkeypatch):
    for arguments in (
        ("--plugin", module, "recipes", "methods"),
        ("recipes", "--plugin", module, "methods"),
        ("recipes", "methods", f"--plugin={module}", "--plugin", module),
    ):
        forget(monkeypatch)
        code, out, err = srq(*arguments)
        assert (code, err) == (0, told(module))
        assert "TQT: trained quantization thresholds (my_method.py)\n" in out


def test_a_model_file_says_which_file_it_needs(
    srq, module, tiny_model, photographs, tmp_path, monkeypatch
):
    run = tmp_path / "run"
    code, _, err = srq(
        *("--plugin", module, "quantize", tiny_model, "--method", "tqt", "--w", 4, "--a", 4),
        *("--data", photographs, "--run", run, *SMALL),
    )
    assert code == 0, err
    model = run / "model.safetensors"
    plugin = read_header(model).plugins["method"]
    assert (plugin.package, plugin.version, plugin.file) == ("", "", "my_method.py")
    forget(monkeypatch)
    assert srq("info", model) == (
        2,
        "",
        f"srq: error: {model}, quantization: needs the method 'tqt' of the file my_method.py: "
        "name it with --plugin\n",
    )
    assert srq("info", model, "--plugin", module)[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.py", "x = 1\nraise ValueError('no')\n", "line 2: ValueError: no"),
        ("a.py", "x = 1\n\ndef f(:\n", "line 3: SyntaxError: invalid syntax"),
        ("a.py", "import no_such\n", "line 1: ModuleNotFoundError: No module named 'no_such'"),
        ("a.py", "import sys\nsys.exit()\n", "line 2: SystemExit"),
        ("a.py", "x = 1\n", "registers no method, network, runtime or recipe"),
        ("a.py", "b'\\x00'\n\x00", "SyntaxError: source code string cannot contain null bytes"),
        ("a.txt", "x = 1\n", "must be a Python file, *.py"),
        ("a.py", None, "cannot be read: No such file or directory"),
        ("", None, "cannot be read: Is a directory"),
    ],
)
def test_a_file_that_fails_is_one_line(srq, tmp_path, name, text, problem):
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    code, out, err = srq("--plugin", path, "recipes", "methods")
    assert (code, out) == (2, "")
    assert "Traceback" not in err
    last = err.removeprefix(told(path))
    assert last.startswith(f"srq: error: --plugin {path}: ")
    assert problem in last
    assert last.count("\n") == 1


def test_a_name_that_srq_has_is_refused(srq, tmp_path):
    path = tmp_path / "again.py"
    path.write_text(
        "from sr_quant_cli import methods\n"
        "from sr_quant_cli.methods import PAMS, PAMSConfig\n"
        "methods.register(PAMS, PAMSConfig)\n"
    )
    _, _, err = srq("--plugin", path, "recipes", "methods")
    assert err.endswith("line 3: ValueError: method 'pams' is registered twice\n")


def test_the_option_needs_a_value(srq):
    code, _, err = srq("recipes", "methods", "--plugin")
    assert (code, err) == (2, "srq: error: --plugin: needs a value\n")


def test_behind_two_dashes_are_pictures(srq, module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rgb(tmp_path / "--plugin.png", picture(5, 6))
    (tmp_path / "--plugin.png").rename(tmp_path / "--plugin")
    code, _, err = srq("upscale", "--model", "fast", "-o", "b.png", "--", "--plugin")
    assert (code, err) == (0, "")
    assert read_rgb(tmp_path / "b.png").shape == (20, 24, 3)
    assert "--plugin FILE" in srq("--help")[1]
