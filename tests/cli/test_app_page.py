"""``srq app`` as a user starts and stops it."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.system.files import cache_dir
from tests.helpers import picture
from tests.web.serving import serving, stopped


def ask(address, data=None):
    with urllib.request.urlopen(urllib.request.Request(address, data=data), timeout=30) as answer:
        return answer.read()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_page_and_leaves_nothing(tmp_path, number, code):
    write_rgb(tmp_path / "a.png", picture(200, 300))
    with serving("--runtime", "torch") as (process, address):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/[\w-]{32}/", address)
        assert b"<title>srq</title>" in ask(address)
        content = (tmp_path / "a.png").read_bytes()
        added = json.loads(ask(f"{address}pictures?name=a.png", content))
        ask(f"{address}pictures/{added['number']}/enlarge", b'{"factor": 4}')
        assert len(list((cache_dir() / "app").iterdir())) == 1
        ended = stopped(process, number)
    assert ended == (code, "Ctrl-C stops the page and removes its pictures\n")
    assert list((cache_dir() / "app").iterdir()) == []


def test_a_port_that_is_taken_is_told_in_one_line(srq):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        code, out, err = srq("app", "--no-browser", "--port", port)
    assert (code, out) == (2, "")
    assert err == f"srq: error: --port {port}: cannot listen there: Address already in use\n"


@pytest.mark.parametrize("missing", ["starlette", "uvicorn"])
def test_without_the_extra_one_line_says_what_to_install(missing):
    code = f"""
import sys
sys.modules["{missing}"] = None
sys.argv = ["srq", "app"]
from sr_quant_cli.cli.app import main
main()
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr == (
        "srq: error: the page needs starlette and uvicorn: pip install 'sr-quant-cli[app]'\n"
    )


@pytest.mark.parametrize(("screen", "opened"), [("DISPLAY", True), (None, False)])
def test_a_browser_is_opened_where_there_is_a_screen(srq, monkeypatch, screen, opened):
    """A text browser would take over the terminal."""
    import threading

    from sr_quant_cli.web import server

    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    if screen:
        monkeypatch.setenv(screen, ":0")
    shown, seen = [], threading.Event()

    def show(address):
        shown.append(address)
        seen.set()

    def serve(told, **_):
        told("http://127.0.0.1:1/x/")
        if opened:
            assert seen.wait(10)

    monkeypatch.setattr("webbrowser.open", show)
    monkeypatch.setattr(server, "serve", serve)
    code, out, _ = srq("app")
    assert (code, out) == (0, "http://127.0.0.1:1/x/\n")
    assert shown == ["http://127.0.0.1:1/x/"] * opened
    shown.clear()
    srq("app", "--no-browser")
    assert shown == []
