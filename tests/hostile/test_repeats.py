"""The same command twice gives the same bytes."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open

from sr_quant_cli.runtimes.registry import runtimes
from tests.hostile.jobs import JOBS, supply, weights
from tests.hostile.processes import Place, state


@pytest.fixture(scope="module")
def places(server, models, tmp_path_factory):
    """Two places with the same inputs, whose caches are empty."""
    made = []
    for name in ("one", "two"):
        place = Place(server, tmp_path_factory.mktemp(name) / "place")
        supply(place, models)
        made.append(place)
    return made


def both(places, *words):
    """Run a command in both places; return what each has made."""
    for place in places:
        shutil.rmtree(place.made)
        place.made.mkdir()
        ended = place.run(*words, memory=None, cpu=300)
        assert ended.code == 0, ended
    return [state(place.made) for place in places]


def _timeless(value):
    """A value of JSON without times."""
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key != "seconds"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value


def contents(path: Path):
    """Tensors and header of a model file, without the seconds that its training took."""
    with safe_open(path, framework="np") as file:
        header = json.loads(file.metadata()["srq"])
    return weights(path), _timeless(header)


@pytest.mark.hostile
@pytest.mark.parametrize("name", ["pretrain", "quantize"])
def test_training_gives_the_same_model(places, name):
    both(places, *JOBS[name].line.split())
    one, two = (contents(place.made / "run/model.safetensors") for place in places)
    assert one == two
    logs = [JOBS[name].result(place.made)["log"] for place in places]
    assert logs[0] == logs[1]


@pytest.mark.parametrize(
    "name", ["import", *(pytest.param(n, marks=pytest.mark.hostile) for n in ("export", "pack"))]
)
def test_files_have_the_same_bytes(places, name, tmp_path):
    if name == "import":
        import torch

        from tests.modelfiles.released import msrresnet

        torch.save(msrresnet(4)[1], tmp_path / "net.pth")
        for place in places:
            place.put("net.pth", (tmp_path / "net.pth").read_bytes())
    one, two = both(places, *JOBS[name].line.split())
    assert one == two


@pytest.mark.parametrize(
    "runtime",
    [
        pytest.param(each.name, marks=() if each.name == "torch" else pytest.mark.hostile)
        for each in runtimes()
        if each.installed
    ],
)
@pytest.mark.parametrize(
    "threads", [1, pytest.param(2, marks=pytest.mark.hostile)], ids="{} threads".format
)
def test_pictures_have_the_same_bytes(places, runtime, threads):
    """Also with a tile that makes several bands, and in a folder of several pictures."""
    model = "program" if runtime == "srq" else "quantized"
    one, two = both(
        places,
        *("upscale", "given/photographs", "-o", "made/", "--overwrite", "--runtime", runtime),
        *("--model", f"given/{model}.safetensors", "--threads", threads, "--tile", 24),
    )
    assert one == two
    assert len(one) >= 5
