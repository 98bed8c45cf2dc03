"""Checkpoints that would run code, and damaged ones."""

import pickle
from itertools import product

import pytest
import torch

from tests.helpers import tiny_edsr
from tests.hostile.corpus import DAMAGES, damaged
from tests.hostile.payloads import containers, pickles
from tests.hostile.processes import sizes, survive
from tests.training.runs import SMALL

SUFFIXES = (".pth", ".pt", ".ckpt", ".bin", ".safetensors", ".onnx", ".xml", ".pkl")
COMMANDS = ("info", "import", "upscale", "report")


def use(place, name, content, command, **changes):
    """Give a checkpoint to a command."""
    model = place.put(name, content)
    words = {
        "info": ["info", model],
        "import": ["import", model, "-o", place.made / "m.safetensors"],
        "upscale": ["upscale", place.small, "-o", place.made / "o.png", "--model", model],
        "report": ["report", model, "-o", place.made / "r.html", "--no-layers"],
    }[command]
    return place.attack(*words, **changes)


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_payloads_run_where_they_are_trusted(tmp_path):
    """Else the tests below would show nothing."""
    ran = 0
    for name, payload in pickles(tmp_path / "canary").items():
        if not name.startswith(("exec", "open", "path", "stacked", "instance", "loads", "mkdir")):
            continue
        pickle.loads(payload)
        canary = tmp_path / "canary"
        assert canary.exists(), name
        canary.rmdir() if canary.is_dir() else canary.unlink()
        ran += 1
    assert ran > 20


@sizes(part=15, whole=600)
def test_no_payload_runs(place, size):
    payloads = pickles(place.canary)

    def case(payload, container, suffix, command):
        content = containers(payloads[payload])[container]
        ended = use(place, f"m{suffix}", content, command)
        assert ended.code in (1, 2)
        assert not list(place.made.iterdir())

    every = list(product(payloads, containers(b""), SUFFIXES, COMMANDS))
    survive(place, case, size.sample(every))


@sizes(part=1, whole=30)
def test_no_payload_runs_in_a_run_that_is_continued(place, size):
    """Neither as a checkpoint of srq's nor as the best weights or the average."""
    payloads = pickles(place.canary)

    def case(payload, container):
        content = containers(payloads[payload])[container]
        for name in ("step-00000004.ckpt", "step-00000008.ckpt", "best.ckpt"):
            place.put(f"run/{name}", content)
        changes = [word for change in SMALL for word in ("--set", change)]
        ended = place.run(
            *("pretrain", "edsr", "--scale", 2, "--data", place.small.parent, *changes),
            *("--run", place.given / "run", "--threads", 1),
        )
        assert ended.code == 2
        assert not ended.violations
        assert not place.canary.exists()
        assert (place.given / "run/best.ckpt").read_bytes() == content

    every = list(product(payloads, containers(b"")))
    survive(place, case, size.sample(every))


@sizes(part=5, whole=11 * 2 * 4)
def test_damaged_checkpoints(place, tmp_path, size):
    torch.save(tiny_edsr().state_dict(), tmp_path / "zip.pth")
    torch.save(
        {"model": tiny_edsr().state_dict(), "epoch": 3},
        tmp_path / "legacy.pth",
        _use_new_zipfile_serialization=False,
    )
    whole = {path.name: path.read_bytes() for path in tmp_path.glob("*.pth")}

    def case(name, damage, seed):
        use(place, "m.pth", damaged(whole[name], damage, f"{name} {seed}"), "import")

    every = list(product(sorted(whole), DAMAGES, range(4)))
    survive(place, case, size.sample(every))


CRAFTED = {
    "deep": lambda: b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".",
    "memo": lambda: (
        b"\x80\x02"
        + b"".join(b"Nr" + i.to_bytes(4, "little") + b"0" for i in range(50_000))
        + b"N."
    ),
    "long text": lambda: b"\x80\x04\x8d" + (2**40).to_bytes(8, "little") + b"a.",
    "long integer": lambda: b"\x80\x02\x8b" + (2**31 - 1).to_bytes(4, "little") + b"\xff.",
    "huge tuple": lambda: b"\x80\x02(" + b"N" * 2_000_000 + b"t.",
    "no end": lambda: b"\x80\x02}",
    "doubling": lambda: b"\x80\x02]q\0" + b"h\0a" * 50_000 + b".",
}


@pytest.mark.parametrize("container", ["bare", pytest.param("zip", marks=pytest.mark.hostile)])
def test_crafted_pickles(place, container):
    def case(name):
        ended = use(place, "m.pth", containers(CRAFTED[name]())[container], "info", cpu=20)
        assert ended.code == 2

    survive(place, case, [(name,) for name in CRAFTED])


@pytest.mark.parametrize("value", [2**40, -1, 2**62])
def test_a_tensor_that_claims_more_than_its_storage(place, tmp_path, value):
    """The sizes and steps in the pickle are changed behind PyTorch's back."""
    torch.save({"head.weight": torch.zeros(7777)}, tmp_path / "m.pth")
    content = (tmp_path / "m.pth").read_bytes()
    short = b"M" + (7777).to_bytes(2, "little")
    assert short in content
    changed = content.replace(short, b"\x8a\x08" + value.to_bytes(8, "little", signed=True))
    for command in COMMANDS:
        assert use(place, "m.pth", changed, command).code == 2
