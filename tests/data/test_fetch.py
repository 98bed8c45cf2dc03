"""Downloads from a server on the loopback address."""

import hashlib
import io
import json
import socket
import tarfile
import threading
import zipfile
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import CliRunner

from sr_quant_cli.cli.data import app
from sr_quant_cli.data.catalog import DATASETS, Archive, DataSet, Part, get_dataset
from sr_quant_cli.data.fetch import check, get
from sr_quant_cli.errors import FailedError, UsageError
from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture


class Server:
    """Server of ``files``; it cuts off the first ``drop`` answers and alters ``spoil`` answers."""

    def __init__(self):
        self.files = {}
        self.drop = 0
        self.spoil = 0
        self.ranges = []
        self.asked = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked += 1
                body = outer.files.get(self.path)
                if body is None:
                    self.send_error(404)
                    return
                wanted = self.headers.get("Range")
                outer.ranges.append(wanted)
                start = int(wanted[len("bytes=") : -1]) if wanted else 0
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206 if wanted else 200)
                self.send_header("Content-Length", str(len(body) - start))
                self.end_headers()
                rest = body[start:]
                if outer.drop:
                    outer.drop -= 1
                    rest = rest[: len(rest) // 2]
                if outer.spoil:
                    outer.spoil -= 1
                    rest = bytes(len(rest))
                self.wfile.write(rest)

            def log_message(self, *_args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(
            target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        ).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.http.server_port}/{name}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr("pooch.core.time.sleep", lambda _seconds: None)
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def png(tmp_path, seed=0):
    write_rgb(tmp_path / "p.png", picture(12, 12, seed))
    return (tmp_path / "p.png").read_bytes()


def tar_of(members):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()


def zip_of(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def offer(server, body, *, name="pack.tar", into=".", folder="Toy/HR", pictures=2, md5=None):
    """A data set of one archive on the test server."""
    server.files[f"/{name}"] = body
    part = Part(folder, pictures)
    md5 = md5 or hashlib.md5(body).hexdigest()
    return DataSet("Toy", "", (Archive(server.url(name), md5, into, (part,)),), (part,))


def toy_members(tmp_path):
    pictures = {f"Toy/HR/{index}.png": png(tmp_path, index) for index in range(2)}
    return pictures | {"Toy/notes.bin": bytes(300_000)}  # long enough to break in the middle


@pytest.mark.parametrize(
    ("pack", "name", "into", "prefix"),
    [(tar_of, "pack.tar", ".", "Toy/"), (zip_of, "HR.zip", "Toy", "")],
)
def test_an_archive_is_laid_out_where_the_table_says(server, tmp_path, pack, name, into, prefix):
    members = {f"{prefix}HR/{index}.png": png(tmp_path, index) for index in range(2)}
    dataset = offer(server, pack(members), name=name, into=into)
    root = tmp_path / "root"
    (line,) = get(dataset, root)
    assert "unpacked" in line
    assert sorted(path.name for path in (root / "Toy/HR").iterdir()) == ["0.png", "1.png"]
    assert all(state.ok for state in check(dataset, root))
    assert not (root / ".downloads").exists()
    assert sorted(path.name for path in root.rglob(".*")) == []


def test_what_is_there_is_not_downloaded_again(server, tmp_path):
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    get(dataset, tmp_path / "root")
    asked = len(server.ranges)
    assert get(dataset, tmp_path / "root") == ["pack.tar: already there"]
    assert len(server.ranges) == asked


def test_a_dropped_connection_is_resumed_where_it_broke(server, tmp_path):
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    server.drop = 1
    get(dataset, tmp_path / "root")
    first, second = server.ranges
    assert first is None
    assert int(second.removeprefix("bytes=").removesuffix("-")) > 100_000
    assert all(state.ok for state in check(dataset, tmp_path / "root"))


def test_a_connection_that_always_drops_fails_and_the_next_call_resumes(server, tmp_path):
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    server.drop = 4
    with pytest.raises(FailedError, match="run the same command to resume"):
        get(dataset, tmp_path / "root")
    assert not (tmp_path / "root/Toy").exists()
    get(dataset, tmp_path / "root")
    assert server.ranges[-1].startswith("bytes=")
    assert all(state.ok for state in check(dataset, tmp_path / "root"))


def test_a_file_with_the_wrong_sum_is_refused_and_removed(server, tmp_path):
    dataset = offer(server, tar_of(toy_members(tmp_path)), md5="0" * 32)
    with pytest.raises(FailedError, match=r"pack\.tar is not the expected file") as caught:
        get(dataset, tmp_path / "root")
    assert "0" * 32 in str(caught.value)
    assert "\n" not in str(caught.value)
    assert [p for p in (tmp_path / "root").rglob("*") if p.is_file()] == []


def test_a_file_spoilt_on_the_way_is_downloaded_again_from_its_beginning(server, tmp_path):
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    server.spoil = 1
    get(dataset, tmp_path / "root")
    assert server.ranges == [None, None]
    assert all(state.ok for state in check(dataset, tmp_path / "root"))


@pytest.mark.parametrize(("surplus", "asked"), [(b"", 1), (b"x", 2)])
def test_a_partial_file_with_nothing_left_to_fetch_is_judged_by_its_sum(
    server, tmp_path, surplus, asked
):
    body = tar_of(toy_members(tmp_path))
    dataset = offer(server, body)
    downloads = tmp_path / "root/.downloads"
    downloads.mkdir(parents=True)
    (downloads / "pack.tar.part").write_bytes(body + surplus)
    get(dataset, tmp_path / "root")
    assert len(server.ranges) == asked
    assert all(state.ok for state in check(dataset, tmp_path / "root"))


def test_a_disk_without_room_is_refused_before_the_download(server, tmp_path, monkeypatch):
    body = tar_of(toy_members(tmp_path))
    dataset = offer(server, body)
    usage = namedtuple("usage", "free")(free=2 * len(body) - 1)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: usage)
    with pytest.raises(FailedError, match="are needed to download and unpack"):
        get(dataset, tmp_path / "root")
    assert [p for p in (tmp_path / "root").rglob("*") if p.is_file()] == []


def test_archives_are_kept_on_request_and_used_again(server, tmp_path):
    body = tar_of(toy_members(tmp_path))
    dataset = offer(server, body)
    root = tmp_path / "root"
    get(dataset, root, keep=True)
    assert (root / ".downloads/pack.tar").read_bytes() == body
    (root / "Toy/HR/0.png").unlink()
    get(dataset, root)
    assert len(server.ranges) == 1
    assert all(state.ok for state in check(dataset, root))


def test_an_address_that_is_gone_is_named_and_asked_once(server, tmp_path):
    dataset = offer(server, b"x")
    server.files.clear()
    with pytest.raises(FailedError) as told:
        get(dataset, tmp_path / "root")
    assert str(told.value) == f"cannot download {server.url('pack.tar')}: 404 Not Found"
    assert server.asked == 1


def archive_at(address):
    part = Part("Toy/HR", 2)
    return DataSet("Toy", "", (Archive(f"{address}/pack.tar", "0" * 32, ".", (part,)),), (part,))


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (socket.gaierror(-2, "Name or service not known"), "cannot reach {host} (name not known)"),
        (
            ConnectionRefusedError(111, "Connection refused"),
            "cannot reach {host} (connection refus",
        ),
        (OSError(113, "No route to host"), "cannot reach {host} (no route to host)"),
        (TimeoutError("timed out"), "{host} does not answer within 30 s"),
    ],
)
def test_a_server_that_cannot_be_reached_is_named(server, tmp_path, monkeypatch, error, reason):
    def refuse(*_arguments, **_names):
        raise error

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    with pytest.raises(FailedError) as told:
        get(archive_at("http://sets.invalid"), tmp_path / "root")
    line = str(told.value)
    address = "cannot download http://sets.invalid/pack.tar: "
    assert line.startswith(address + reason.format(host="sets.invalid"))
    assert line.endswith("; run the same command to resume")
    assert "\n" not in line
    assert "Pool" not in line


def test_several_downloads_into_one_root_wait_for_each_other(server, tmp_path, capsys):
    """Threads take the place of processes: a file lock excludes both."""
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    root = tmp_path / "root"
    with ThreadPoolExecutor(3) as pool:
        lines = [line for (line,) in pool.map(get, [dataset] * 3, [root] * 3)]
    assert sorted(line.partition(" ")[2][:7] for line in lines) == ["already"] * 2 + ["unpacke"]
    assert server.asked == 1
    assert all(state.ok for state in check(dataset, root))
    assert sorted(path.name for path in root.rglob(".*")) == []


def test_what_killed_downloads_left_goes(server, tmp_path, monkeypatch):
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    downloads = tmp_path / "root/.downloads"
    for place in (downloads, tmp_path / "root"):
        left = place / ".srq-tmp-left"
        left.mkdir(parents=True)
        (left / "srq.lock").touch()
        (left / "half").write_text("half")
    (tmp_path / "root/.mine").write_text("mine")
    monkeypatch.setattr("sr_quant_cli.system.files._swept", set())
    get(dataset, tmp_path / "root")
    assert sorted(path.name for path in (tmp_path / "root").rglob(".*")) == [".mine"]


@pytest.mark.parametrize(("pack", "name"), [(tar_of, "large.tar"), (zip_of, "large.zip")])
def test_an_archive_that_unpacks_to_much_more_than_it_is_is_refused(
    server, tmp_path, monkeypatch, pack, name
):
    monkeypatch.setattr("sr_quant_cli.data.fetch._MAX_EXPANSION", 0.1)
    members = toy_members(tmp_path) | {"Toy/HR/zeros": bytes(2**20)}
    dataset = offer(server, pack(members), name=name)
    with pytest.raises(FailedError, match="for an archive of pictures; nothing was unp"):
        get(dataset, tmp_path / "root")
    assert not (tmp_path / "root/Toy").exists()


def test_an_archive_of_fewer_pictures_is_refused(server, tmp_path):
    dataset = offer(server, tar_of(toy_members(tmp_path)), pictures=3)
    with pytest.raises(FailedError, match=r"pack\.tar holds 2 of 3 pictures of Toy/HR"):
        get(dataset, tmp_path / "root")
    assert not (tmp_path / "root/Toy").exists()


@pytest.mark.parametrize(("pack", "name"), [(tar_of, "evil.tar"), (zip_of, "evil.zip")])
def test_members_that_point_outside_are_refused(server, tmp_path, pack, name):
    members = toy_members(tmp_path) | {"../../escaped.png": b"x"}
    dataset = offer(server, pack(members), name=name)
    with pytest.raises(FailedError, match="nothing was unpacked"):
        get(dataset, tmp_path / "a/root")
    assert not list(tmp_path.rglob("escaped.png"))
    assert not (tmp_path / "a/root/Toy").exists()


def test_links_are_left_out(server, tmp_path):
    body = io.BytesIO(tar_of(toy_members(tmp_path)))
    with tarfile.open(fileobj=body, mode="a") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            link = tarfile.TarInfo(f"Toy/HR/link{kind.decode()}.png")
            link.type, link.linkname = kind, "/etc/hostname"
            archive.addfile(link)
    get(offer(server, body.getvalue()), tmp_path / "root")
    assert not list((tmp_path / "root").rglob("link*"))


def test_an_archive_that_is_none_or_lacks_a_part_is_refused(server, tmp_path):
    with pytest.raises(FailedError, match="cannot be unpacked"):
        get(offer(server, b"hello"), tmp_path / "root")
    with pytest.raises(FailedError, match="does not hold Toy/HR"):
        get(offer(server, tar_of({"Other/a.png": b"x"}), name="b.tar"), tmp_path / "root")


def test_an_interrupted_unpacking_leaves_no_half_set(server, tmp_path, monkeypatch):
    dataset = offer(server, tar_of(toy_members(tmp_path)))

    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr("sr_quant_cli.data.fetch._move", interrupted)
    with pytest.raises(KeyboardInterrupt):
        get(dataset, tmp_path / "root")
    assert not (tmp_path / "root/Toy").exists()
    assert [path.name for path in (tmp_path / "root").iterdir()] == [".downloads"]
    kept = {path.name for path in (tmp_path / "root/.downloads").iterdir()}
    assert kept == {"pack.tar", ".lock"}


@pytest.mark.parametrize("remove", [True, False], ids=["one missing", "none missing"])
@pytest.mark.parametrize(
    "damage",
    [lambda _: b"", lambda whole: whole[:200], lambda whole: whole[:200] + bytes(len(whole) - 200)],
    ids=["emptied", "truncated", "overwritten"],
)
def test_check_finds_what_is_missing_or_damaged_and_get_mends_it(server, tmp_path, damage, remove):
    dataset = offer(server, tar_of(toy_members(tmp_path)))
    root = tmp_path / "root"
    get(dataset, root)
    (root / "Toy/HR/notes.txt").write_text("mine")
    whole = (root / "Toy/HR/1.png").read_bytes()
    (root / "Toy/HR/1.png").write_bytes(damage(whole))
    if remove:
        (root / "Toy/HR/0.png").unlink()
    (state,) = check(dataset, root)
    assert (state.found, state.damaged, state.ok) == (2 - remove, ("1.png",), False)
    get(dataset, root)
    assert (root / "Toy/HR/1.png").read_bytes() == whole
    assert (root / "Toy/HR/notes.txt").read_text() == "mine"
    assert all(state.ok for state in check(dataset, root))


def test_lr_may_be_absent_as_a_whole_but_not_in_part(tmp_path):
    parts = (Part("T/HR", 1), Part("T/LR", 2, optional=True))
    write_rgb(tmp_path / "T/HR/a.png", picture(8, 8))
    dataset = DataSet("T", "", parts=parts)
    assert [state.ok for state in check(dataset, tmp_path)] == [True, True]
    write_rgb(tmp_path / "T/LR/a.png", picture(4, 4))
    assert [state.ok for state in check(dataset, tmp_path)] == [True, False]


def test_lr_archives_can_be_left_out(server, tmp_path):
    hr = offer(server, tar_of(toy_members(tmp_path)))
    lr_part = Part("Toy/LR", 1, optional=True)
    lr = Archive(server.url("lr.tar"), "0" * 32, ".", (lr_part,))
    dataset = DataSet("Toy", "", (*hr.archives, lr), (*hr.parts, lr_part))
    assert len(get(dataset, tmp_path / "root", hr_only=True)) == 1


def test_a_set_that_needs_registration_says_what_to_place_where(tmp_path):
    with pytest.raises(UsageError, match=rf"manga109\.org.*{tmp_path}/benchmark/Manga109/HR"):
        get(get_dataset("manga109"), tmp_path)


def test_a_part_of_div2k_has_its_own_name_and_is_required_then(tmp_path):
    dataset = get_dataset("div2k_train_lr_bicubic_x4")
    (part,) = dataset.parts
    assert part.folder == "DIV2K/DIV2K_train_LR_bicubic/X4"
    assert [archive.name for archive in dataset.archives] == ["DIV2K_train_LR_bicubic_X4.zip"]
    assert not check(dataset, tmp_path)[0].ok
    assert check(get_dataset("DIV2K"), tmp_path)[4].ok


def test_names_are_found_in_any_case_and_nearly():
    assert get_dataset("div2k").name == "DIV2K"
    assert get_dataset("BSDS100").name == "B100"
    with pytest.raises(UsageError, match="did you mean 'Flickr2K'"):
        get_dataset("Flicker2K")


def test_the_table_is_consistent():
    for dataset in DATASETS.values():
        assert dataset.parts
        assert bool(dataset.archives) != bool(dataset.instructions)
        for archive in dataset.archives:
            assert len(archive.md5) == 32
            assert all(part.pictures > 0 for part in archive.parts)
        reachable = {part for archive in dataset.archives for part in archive.parts}
        assert not dataset.archives or set(dataset.parts) <= reachable


def test_the_commands_list_get_and_check(server, tmp_path, monkeypatch):
    monkeypatch.setitem(DATASETS, "Toy", offer(server, tar_of(toy_members(tmp_path))))
    monkeypatch.setenv("SRQ_DATA", str(tmp_path / "root"))

    def run(*arguments):
        return CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "report.json")])

    def report():
        return json.loads((tmp_path / "report.json").read_text())

    assert "Flickr2K" in run("list").stdout
    assert [row["name"] for row in report()["sets"]] == list(DATASETS)
    missing = run("check", "toy")
    assert isinstance(missing.exception, FailedError)
    assert f"{tmp_path}/root/Toy/HR" in str(missing.exception)
    assert not report()["parts"][0]["ok"]
    assert "unpacked" in run("get", "toy").stdout
    assert run("check", "toy").exit_code == 0
    assert report()["parts"][0]["ok"]


def test_real_sets_are_complete(real_data):
    states = check(get_dataset("Set14"), real_data)
    assert all(state.ok for state in states)
    assert states[0].found == 14
