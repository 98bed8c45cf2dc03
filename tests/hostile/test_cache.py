"""Attacks on the cache: whatever is found there, the picture is the same."""

import os
import shutil

import pytest

from tests.hostile.corpus import DAMAGES, damaged
from tests.hostile.jobs import supply
from tests.hostile.processes import Place, give, litter, sizes, state

UPSCALE = (
    *("upscale", "given/photographs/p0.png", "-o", "made/o.png", "--overwrite", "--threads", "1"),
    *("--model", "given/float.safetensors", "--precision", "fp32", "--runtime"),
)
RUNTIMES = ("openvino", "onnxruntime")


@pytest.fixture(scope="module")
def filled(server, models, tmp_path_factory):
    """A place whose cache has the graph of a model, and the pictures that it makes."""
    place = Place(server, tmp_path_factory.mktemp("cache") / "place")
    supply(place, models)
    made = {runtime: enlarge(place, runtime) for runtime in RUNTIMES}
    return place, made


def enlarge(place, runtime):
    ended = place.run(*UPSCALE, runtime, memory=None)
    assert ended.code == 0, ended
    assert "Traceback" not in ended.err, ended
    assert not ended.violations, ended
    assert not litter(place.folder)
    return state(place.made)


def entry(place):
    (found,) = (path for path in (place.folder / "cache/graphs").iterdir() if path.is_dir())
    return found


@sizes(part=0, whole=30)
def test_damaged_entries_change_no_picture(filled, size):
    place, wanted = filled
    files = sorted(
        path for path in entry(place).rglob("*") if path.is_file() and path.stat().st_size
    )
    names = [str(path.relative_to(entry(place))) for path in files]
    assert len(names) >= 3, names
    for name, damage in size.sample((name, damage) for name in names for damage in DAMAGES):
        path = entry(place) / name
        runtime = RUNTIMES["onnxruntime" in name]
        path.write_bytes(damaged(path.read_bytes(), damage, name))
        assert enlarge(place, runtime) == wanted[runtime], (name, damage)


@pytest.mark.hostile
@pytest.mark.parametrize(
    "attack", ["another model", "everybody's", "writable", "link", "owner", "files"]
)
def test_foreign_entries_change_no_picture(server, models, filled, tmp_path_factory, attack):
    """A whole and sealed entry that somebody else has put there, of another network."""
    other, wanted = filled
    place = Place(server, tmp_path_factory.mktemp("foreign") / "place")
    supply(place, models)
    # The entry of another model, under the name that this one's will have.
    (place.given / "float.safetensors").write_bytes(models["quantized"].read_bytes())
    enlarge(place, "onnxruntime")
    foreign, name = entry(place), entry(other).name
    target = foreign.with_name(name)
    (place.given / "float.safetensors").write_bytes(models["float"].read_bytes())
    match attack:
        case "another model":
            foreign.rename(target)
        case "everybody's":
            foreign.rename(target)
            target.chmod(0o777)
        case "writable":
            shutil.copytree(entry(other), target)
            (target / "graph.onnx").write_bytes((foreign / "graph.onnx").read_bytes())
        case "link":
            target.symlink_to(foreign)
        case "owner":
            if os.geteuid():
                pytest.skip("only root can give files to other users")
            foreign.rename(target)
        case "files":
            target.mkdir()
            for file in ("graph.onnx", "model.json", ".lock"):
                (target / file).mkdir()
    give(place.folder)
    if attack == "owner":
        for path in (target, *target.rglob("*")):
            os.chown(path, 12345, 12345)
        place.given_away = True
    made = enlarge(place, "onnxruntime") if attack != "files" else None
    if attack == "files":
        ended = place.run(*UPSCALE, "onnxruntime", memory=None)
        assert ended.code in (0, 1), ended
        assert "Traceback" not in ended.err, ended
    else:
        assert made == wanted["onnxruntime"], attack
