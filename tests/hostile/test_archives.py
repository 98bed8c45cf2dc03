"""Archives of data sets, from a server that may send anything."""

import io
import tarfile
import zipfile

import pytest

from tests.hostile.corpus import DAMAGES, damaged, tar_of, zip_of
from tests.hostile.processes import litter, sizes, state, survive

CALL = "tests.hostile.calls:unpack_given"


@pytest.fixture
def members(place):
    """The pictures of a small data set."""
    content = place.small.read_bytes()
    return {"Toy/HR/0.png": content, "Toy/HR/1.png": content}


def attack(place, content):
    """Unpack an archive: nothing may come of it but the set, whole, or a line."""
    place.put("a", content)
    ended = place.attack(call=CALL)
    found = {path.name for path in place.made.rglob("*")}
    assert not litter(place.made)
    if ended.code:
        assert not found, found
    return ended, found


def link(name, target, kind=tarfile.SYMTYPE):
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry


def special(name, kind, mode=0o644):
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = kind, mode
    return entry


OUTSIDE = {
    "parent": lambda place: "../../escaped.png",
    "deep parent": lambda place: "Toy/HR/../../../escaped.png",
    "absolute": lambda place: f"{place.folder}/escaped.png",
    "backslashes": lambda place: "..\\..\\escaped.png",
    "dots": lambda place: "Toy/./../../escaped.png",
}


@pytest.mark.parametrize("pack", [tar_of, zip_of])
def test_members_outside_are_refused(place, members, pack):
    def case(kind):
        ended, _ = attack(place, pack(members | {OUTSIDE[kind](place): b"x"}))
        assert ended.code == 1
        assert not list(place.folder.parent.rglob("escaped*"))

    survive(place, case, [(kind,) for kind in OUTSIDE])


def test_links_and_devices_are_left_out(place, members):
    secret = place.folder / "small/p.png"
    before = state(place.folder / "small")
    odd = {
        "link": [link("Toy/HR/2.png", str(secret))],
        "hard link": [link("Toy/HR/2.png", str(secret), tarfile.LNKTYPE)],
        "through a link": [link("Toy/x", ".."), tarfile.TarInfo("Toy/x/escaped.png")],
        "link as a folder": [link("Toy", str(place.folder / "small"))],
        "pipe": [special("Toy/HR/2.png", tarfile.FIFOTYPE)],
        "device": [special("Toy/HR/2.png", tarfile.CHRTYPE)],
        "set-user-id": [special("Toy/HR/2.png", tarfile.REGTYPE, 0o6777)],
        "same name twice": [link("Toy/HR/1.png", str(secret)), tarfile.TarInfo("Toy/HR/1.png")],
    }

    def case(kind, first):
        entries = {f"{i}": entry for i, entry in enumerate(odd[kind])}
        attack(place, tar_of({**entries, **members} if first else {**members, **entries}))
        assert state(place.folder / "small") == before
        assert not list(place.folder.rglob("escaped*"))
        for path in place.made.rglob("*"):
            assert not path.is_symlink()
            assert path.is_dir() or path.is_file()
            assert not path.stat().st_mode & 0o6022 or path.is_dir()
            assert path.is_dir() or path.stat().st_nlink == 1

    survive(place, case, [(kind, first) for kind in odd for first in (True, False)])


@sizes(part=6, whole=11 * 5 * 3)
def test_damaged_archives(place, members, size):
    whole = {
        "tar": tar_of(members),
        "tar.gz": tar_of(members, "w:gz"),
        "tar.xz": tar_of(members, "w:xz"),
        "zip": zip_of(members),
        "deflated zip": zip_of(members, zipfile.ZIP_DEFLATED),
    }

    def case(kind, damage, seed):
        attack(place, damaged(whole[kind], damage, f"{kind} {seed}"))

    every = [(kind, damage, seed) for kind in whole for damage in DAMAGES for seed in range(3)]
    survive(place, case, size.sample(every))


def _many(count):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for index in range(count):
            archive.addfile(tarfile.TarInfo(f"Toy/HR/{index}"))
    return buffer.getvalue()


CRAFTED = {
    "bomb": lambda: zip_of({"Toy/HR/0.png": bytes(2**28)}, zipfile.ZIP_DEFLATED),
    "bomb in tar": lambda: tar_of({"Toy/HR/0.png": bytes(2**28)}, "w:gz"),
    "empty": lambda: b"",
    "many": lambda: _many(5_000),
    "long name": lambda: tar_of({"Toy/" + "a" * 5000 + "/0.png": b"x"}),
    "deep": lambda: tar_of({"a/" * 2000 + "0.png": b"x"}),
    "nul": lambda: zip_of({"Toy/HR/a\0b.png": b"x"}),
    "escapes": lambda: tar_of({"../\x1b]0;t\x07": b"x"}),
    "encrypted": lambda: zip_of({"Toy/HR/0.png": b"x"}).replace(
        b"PK\1\2\24\3\24\0\0\0", b"PK\1\2\24\3\24\0\1\0"
    ),
    "claims": lambda: zip_of({"Toy/HR/0.png": b"x"}).replace(
        (1).to_bytes(4, "little") * 2, b"\xff\xff\xff\x7f" * 2
    ),
}


@pytest.mark.hostile
def test_crafted_archives(place):
    def case(name):
        ended, _ = attack(place, CRAFTED[name]())
        assert ended.code == 1

    survive(place, case, [(name,) for name in CRAFTED])
