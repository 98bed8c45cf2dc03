"""The page: who is let in, what is refused, and results as ``srq upscale`` makes them."""

import io
import json
import re
import threading
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
import pyvips
from starlette.testclient import TestClient

from sr_quant_cli.commands.batch import Batch
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.system.files import user_models_dir
from sr_quant_cli.web import pictures as web
from sr_quant_cli.web.pictures import Limits, PagePictures
from sr_quant_cli.web.server import page
from tests.helpers import picture, tiny_edsr

TOKEN, PORT = "secret", 8123
ADDRESS = f"http://127.0.0.1:{PORT}"
STATIC = Path(web.__file__).parent / "static"
TORCH = RunOptions(runtime="torch", tile=8)
LIMITS = Limits(pictures=3, bytes=100_000, pixels=40_000)


@pytest.fixture
def shop(tmp_path):
    """The pictures of a page, with small limits, and the model ``tiny`` in the user's folder."""
    folder = user_models_dir()
    folder.mkdir(exist_ok=True)
    save_model(folder / "tiny.safetensors", tiny_edsr(), Card(name="tiny"))
    folder = tmp_path / "page"
    folder.mkdir()
    with PagePictures(folder, TORCH, LIMITS) as pictures:
        yield pictures


@pytest.fixture
def client(shop):
    with TestClient(page(shop, TOKEN, PORT), f"{ADDRESS}/{TOKEN}/") as client:
        yield client


@pytest.fixture
def held(monkeypatch):
    """Two events: the first tile of a picture sets one, and waits for the other."""
    begun, go = threading.Event(), threading.Event()
    update = web._Meter.update

    def waiting(self, steps=1):
        update(self, steps)
        begun.set()
        assert go.wait(30)

    monkeypatch.setattr(web._Meter, "update", waiting)
    yield begun, go
    go.set()


def png(height=12, width=17, seed=0, suffix=".png"):
    return pyvips.Image.new_from_array(picture(height, width, seed=seed)).write_to_buffer(suffix)


def add(client, name="a.png", content=None):
    answer = client.post("pictures", params={"name": name}, content=content or png())
    assert answer.status_code == 201, answer.text
    return answer.json()["number"]


def enlarge(client, number, **settings):
    wanted = {"model": "tiny", "factor": 2, **settings}
    return client.post(f"pictures/{number}/enlarge", content=json.dumps(wanted))


def state(client, number):
    listed = client.get("pictures").json()["pictures"]
    return next(entry for entry in listed if entry["number"] == number)


def finished(client, number):
    """State of a picture when it is no longer worked on."""
    end = time.monotonic() + 60
    while (now := state(client, number))["status"] in ("waiting", *web._BUSY):
        assert time.monotonic() < end
        time.sleep(0.02)
    return now


def wait_until(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


FOREIGN = {
    "another token": ("GET", f"{ADDRESS}/Secret/pictures", {}),
    "a longer token": ("GET", f"{ADDRESS}/secrets/pictures", {}),
    "no token": ("GET", f"{ADDRESS}/", {}),
    "a file without token": ("GET", f"{ADDRESS}/static/app.js", {}),
    "a token that is no ASCII": ("GET", f"{ADDRESS}/s%C3%A9cret/", {}),
    "another host": ("GET", f"{ADDRESS}/{TOKEN}/", {"Host": f"evil.example:{PORT}"}),
    "another port": ("GET", f"{ADDRESS}/{TOKEN}/", {"Host": "127.0.0.1:80"}),
    "localhost": ("GET", f"{ADDRESS}/{TOKEN}/", {"Host": f"localhost:{PORT}"}),
    "another origin": ("POST", f"{ADDRESS}/{TOKEN}/pictures", {"Origin": "http://evil.example"}),
    "a hidden origin": ("POST", f"{ADDRESS}/{TOKEN}/pictures", {"Origin": "null"}),
    "a neighbouring port": (
        "POST",
        f"{ADDRESS}/{TOKEN}/pictures",
        {"Origin": "http://127.0.0.1:80"},
    ),
    "a link elsewhere": ("GET", f"{ADDRESS}/{TOKEN}/", {"Sec-Fetch-Site": "cross-site"}),
    "another port's page": ("GET", f"{ADDRESS}/{TOKEN}/", {"Sec-Fetch-Site": "same-site"}),
}


@pytest.mark.parametrize("case", FOREIGN)
def test_requests_from_elsewhere_are_refused(client, case):
    method, url, headers = FOREIGN[case]
    answer = client.request(
        method, url, headers=headers, content=png() if method == "POST" else b""
    )
    assert answer.status_code == 403
    assert answer.text.count("\n") == 1
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert client.get("pictures").json()["pictures"] == []


def test_the_browser_on_the_page_itself_is_let_in(client):
    own = {"Origin": ADDRESS, "Sec-Fetch-Site": "same-origin"}
    answer = client.post("pictures", params={"name": "a.png"}, content=png(), headers=own)
    assert answer.status_code == 201
    typed = client.get("", headers={"Sec-Fetch-Site": "none"})
    assert typed.status_code == 200
    assert typed.headers["Cache-Control"] == "no-store"
    assert "unsafe" not in typed.headers["Content-Security-Policy"]


def test_the_page_loads_its_own_files_only(client):
    html = client.get("").text
    linked = re.findall(r'(?:src|href)="([^"]+)"', html)
    assert {link for link in linked if link != "results.zip"} == {
        f"static/{path.name}" for path in STATIC.iterdir() if path.name != "index.html"
    }
    for link in linked:
        assert client.get(link).status_code == (404 if link == "results.zip" else 200), link
    assert not re.search(r"<script(?![^>]*src=)|<style|\sstyle=|\son\w+=", html)
    for path in STATIC.iterdir():
        addresses = re.findall(r"https?://[^\"' )]+", path.read_text(encoding="utf-8"))
        assert set(addresses) <= {"http://www.w3.org/2000/svg"}, path.name


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({"factor": 2}, ["--scale", "2"]),
        ({"factor": 1.5, "format": "jpg"}, ["--scale", "1.5", "--format", "jpg"]),
        ({"factor": None, "width": 40, "strip": True}, ["--width", "40", "--strip"]),
    ],
)
def test_results_are_those_of_srq_upscale(client, srq, tmp_path, settings, options):
    source = tmp_path / "Foto ü.png"
    source.write_bytes(png())
    assert srq("upscale", source, "--model", "tiny", "--runtime", "torch", *options)[0] == 0
    (made,) = set(tmp_path.glob("*.*")) - {source}
    number = add(client, source.name, source.read_bytes())
    assert enlarge(client, number, **settings).status_code == 202
    done = finished(client, number)
    assert (done["status"], done["message"]) == ("done", "")
    assert done["result"]["name"] == made.name
    saved = client.get(f"pictures/{number}/result")
    assert saved.content == made.read_bytes()
    assert saved.headers["Content-Disposition"].startswith("attachment")
    assert done["result"]["bytes"] == len(saved.content)


def test_animations_stay_animations_unless_the_first_frame_is_chosen(client):
    frames = [pyvips.Image.new_from_array(picture(8, 9, seed=seed)) for seed in range(3)]
    strip = pyvips.Image.arrayjoin(frames, across=1)
    strip.set_type(pyvips.GValue.gint_type, "page-height", 8)
    number = add(client, "moving.gif", strip.write_to_buffer(".gif"))
    assert state(client, number)["frames"] == 3
    for settings, name in (
        ({}, "moving_x2.gif"),
        ({"first_frame": True}, "moving_x2.png"),
        ({"format": "jpg", "first_frame": True}, "moving_x2.jpg"),
    ):
        enlarge(client, number, **settings)
        assert finished(client, number)["result"]["name"] == name
    enlarge(client, number, format="jpg")
    assert finished(client, number)["message"].endswith(
        "or enlarge only one with 'First frame or page only'"
    )


def test_views_are_bounded_png_files(client, monkeypatch):
    monkeypatch.setattr(web, "LONGEST", 30)
    number = add(client, "a.jpg", png(20, 60, suffix=".jpg"))
    enlarge(client, number)
    assert finished(client, number)["result"]["width"] == 120
    for view in ("before", "after"):
        shown = client.get(f"pictures/{number}/{view}.png")
        assert shown.headers["Content-Type"] == "image/png"
        image = pyvips.Image.new_from_buffer(shown.content, "")
        assert (image.width, image.height) == (30, 10)
    assert client.get(f"pictures/{number}/source.png").status_code == 404


def test_a_transparent_picture_of_16_bits_is_shown(client):
    deep = np.full((9, 9, 4), 60_000, np.uint16)
    deep[:4, :, 3] = 0
    image = pyvips.Image.new_from_array(deep).copy(interpretation="rgb16")
    number = add(client, "deep.png", image.write_to_buffer(".png"))
    shown = pyvips.Image.new_from_buffer(client.get(f"pictures/{number}/before.png").content, "")
    assert (shown.bands, shown.format) == (4, "uchar")
    assert shown(0, 0)[3] == 0
    assert shown(8, 8) == [233, 233, 233, 233]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"no picture", 400, "cannot read b.png: it is not in a picture format"),
        (png()[:-60], 400, "cannot read b.png: "),
        (b"", 400, "cannot read b.png: "),
        (b"\0" * 100_001, 413, "the file is larger than 0 MiB"),
        (png(300, 300), 400, "b.png has 90,000 pixels, more than the limit of 40,000 allows"),
    ],
    ids=["text", "damaged", "empty", "too large", "too many pixels"],
)
def test_files_that_cannot_be_enlarged_are_refused_in_one_line(
    client, shop, content, status, message
):
    shop.limits = Limits(bytes=100_000 if status == 413 else 10**6, pixels=40_000)
    answer = client.post("pictures", params={"name": "b.png"}, content=content)
    assert answer.status_code == status
    problem = answer.json()["error"]
    assert problem.startswith(message)
    assert "\n" not in problem
    assert str(shop.folder) not in problem
    assert list(shop.folder.iterdir()) == []
    assert client.get("pictures").json()["pictures"] == []


def test_the_number_of_pictures_is_bounded(client):
    numbers = [add(client) for _ in range(LIMITS.pictures)]
    answer = client.post("pictures", params={"name": "a.png"}, content=png())
    assert answer.status_code == 400
    assert "remove some first" in answer.json()["error"]
    assert client.delete(f"pictures/{numbers[0]}").status_code == 204
    add(client)


def test_names_of_uploads_do_not_become_paths(client, shop, tmp_path):
    for given, name in (
        ("../../evil.png", "evil.png"),
        ("C:\\pictures\\b.png", "b.png"),
        ("a\r\nX-Evil: 1.png", "aX-Evil 1.png"),
        ("", "picture"),
    ):
        number = add(client, given)
        assert state(client, number)["name"] == name
        assert enlarge(client, number).status_code == 202
        finished(client, number)
        saved = client.get(f"pictures/{number}/result")
        assert "X-Evil" not in saved.headers
        assert client.delete(f"pictures/{number}").status_code == 204
    assert list(shop.folder.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["page"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"factor": None}, "choose a size"),
        ({"factor": 17}, "the factor 17: must be more than 1, and at most 16"),
        ({"factor": "2"}, "factor must be a number"),
        ({"width": 40}, "the factor and the width: give only one of them"),
        ({"format": "exe"}, "unknown format 'exe'"),
        ({"model": "../tiny.safetensors"}, "there is no model ../tiny.safetensors"),
        ({"modell": "tiny"}, "modell unknown key"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(client, settings, message):
    number = add(client)
    answer = enlarge(client, number, **settings)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(message)
    assert state(client, number)["status"] == "ready"
    too_long = client.post(f"pictures/{number}/enlarge", content=b" " * 100_000)
    assert too_long.status_code == 413


def test_a_picture_that_fails_says_why_and_the_next_one_is_enlarged(client):
    transparent = pyvips.Image.new_from_array(np.zeros((9, 9, 4), np.uint8))
    glass = add(
        client, "glass.png", transparent.copy(interpretation="srgb").write_to_buffer(".png")
    )
    other = add(client)
    for number, settings in ((glass, {"format": "jpg"}), (other, {"factor": 16})):
        assert enlarge(client, number, **settings).status_code == 202
    failed = finished(client, glass)
    assert failed["status"] == "failed"
    assert failed["message"].endswith("JPEG holds no transparency; use .png")
    assert "/" not in failed["message"]
    assert finished(client, other)["message"].endswith("more than the limit of 40,000 allows")
    enlarge(client, other)
    assert finished(client, other)["status"] == "done"


def test_a_defect_fails_one_picture_and_is_logged(client, monkeypatch, caplog):
    number = add(client)
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "read", lambda *_: 1 / 0)
        enlarge(client, number)
        failed = finished(client, number)
    assert failed["message"] == "an unexpected error, see the terminal: ZeroDivisionError"
    assert "ZeroDivisionError" in caplog.text
    enlarge(client, number)
    assert finished(client, number)["status"] == "done"


def test_work_can_be_followed_and_stopped(client, held):
    begun, go = held
    first, second = add(client), add(client, "b.png")
    enlarge(client, first)
    enlarge(client, second)
    assert begun.wait(30)
    now = state(client, first)
    assert now["status"] == "enlarging"
    assert now["fraction"] == pytest.approx(1 / 6, abs=1e-3)  # 2 x 3 tiles
    assert now["seconds_left"] > 0
    all_left = client.get("pictures").json()["seconds_left"]
    assert all_left > now["seconds_left"]
    assert enlarge(client, first).json()["error"] == "a.png is being enlarged already"
    for number in (first, second):
        assert client.post(f"pictures/{number}/stop").status_code == 204
    assert state(client, second)["status"] == "stopped"
    go.set()
    assert finished(client, first)["status"] == "stopped"
    assert client.get(f"pictures/{first}/result").status_code == 404
    enlarge(client, first)
    assert finished(client, first)["status"] == "done"


def test_an_earlier_result_stays_until_there_is_a_new_one(client, shop, held):
    begun, go = held
    go.set()
    number = add(client)
    enlarge(client, number)
    before = finished(client, number)["result"]
    go.clear()
    begun.clear()
    enlarge(client, number, factor=3)
    assert begun.wait(30)
    client.post(f"pictures/{number}/stop")
    go.set()
    stopped = finished(client, number)
    assert (stopped["status"], stopped["result"]) == ("stopped", before)
    assert client.get(f"pictures/{number}/result").status_code == 200
    enlarge(client, number, factor=3)
    after = finished(client, number)["result"]
    assert (after["width"], after["name"]) == (51, "a_x3.png")
    assert len(list((shop.folder / str(number)).iterdir())) == 5  # source, result, three views


def test_removed_pictures_leave_nothing(client, shop, held):
    begun, go = held
    number = add(client)
    enlarge(client, number)
    assert begun.wait(30)
    assert client.delete(f"pictures/{number}").status_code == 204
    assert client.get("pictures").json()["pictures"] == []
    go.set()
    wait_until(lambda: not list(shop.folder.iterdir()))
    for method, path in (("GET", "before.png"), ("POST", "stop"), ("GET", "result")):
        gone = client.request(method, f"pictures/{number}/{path}")
        assert (gone.status_code, gone.json()) == (400, {"error": f"there is no picture {number}"})


def test_closing_stops_the_work(tmp_path, shop, client, held):
    begun, go = held
    number = add(client)
    enlarge(client, number)
    assert begun.wait(30)
    closing = threading.Thread(target=shop.__exit__, args=(None, None, None))
    closing.start()
    go.set()
    closing.join(30)
    assert not closing.is_alive()
    assert shop.find(number).status == "stopped"


def test_all_results_are_saved_as_one_archive(client):
    assert client.get("results.zip").status_code == 404
    numbers = [add(client, "a.png", png(seed=seed)) for seed in range(2)]
    numbers.append(add(client, "A.PNG", png(seed=2)))
    for number in numbers:
        enlarge(client, number)
    for number in numbers:
        assert finished(client, number)["status"] == "done"
    saved = client.get("results.zip")
    with zipfile.ZipFile(io.BytesIO(saved.content)) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["a_x2.png", "a_x2 (2).png", "A_x2 (3).png"]
        for number, name in zip(numbers, archive.namelist(), strict=True):
            assert archive.read(name) == client.get(f"pictures/{number}/result").content


def test_models_and_formats_are_offered(client):
    (user_models_dir() / "broken.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    write_rgb(user_models_dir() / "no-model.png", picture(3, 3))
    offered = client.get("offered").json()
    models = {model["name"]: model for model in offered["models"]}
    assert models["edsr-baseline-x4-w8a8"]["label"] == "edsr-baseline-x4-w8a8, x4, 8 bits"
    assert not models["edsr-baseline-x4-w8a8"]["own"]
    assert models["tiny"]["own"]
    assert models["tiny"]["label"] == "tiny, x2, full precision"
    assert "no-model" not in models
    formats = {form["key"]: form["note"] for form in offered["formats"]}
    assert (formats["png"], formats["jpg"]) == ("lossless, 16 bits", "smaller")
    assert formats["gif"] == "256 colours"
    assert offered["limits"] == {"pictures": 3, "bytes": 100_000}


def test_a_model_that_was_replaced_is_opened_anew(client, shop):
    number = add(client)
    results = []
    for seed in (0, 0, 1):
        if seed:
            save_model(
                user_models_dir() / "tiny.safetensors", tiny_edsr(seed=seed), Card(name="tiny")
            )
        models = shop._models
        assert enlarge(client, number).status_code == 202
        assert finished(client, number)["status"] == "done"
        results.append((client.get(f"pictures/{number}/result").content, shop._models is models))
    (first, _), (again, kept), (other, kept_too) = results
    assert (first == again, kept) == (True, True)
    assert (first == other, kept_too) == (False, False)
