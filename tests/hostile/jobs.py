"""Commands whose results do not depend on what happened before, as tests disturb them."""

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from sr_quant_cli.imaging.io import write_rgb
from tests.helpers import picture
from tests.hostile.processes import Place, give, state
from tests.training.runs import SMALL

PICTURES = 5


def _set(*changes: str) -> str:
    return " ".join(f"--set {change}" for change in changes)


def weights(path: Path) -> dict[str, str]:
    """Hashes of the tensors of a model file."""
    return {
        name: hashlib.sha256(np.ascontiguousarray(tensor).tobytes()).hexdigest()
        for name, tensor in load_file(path).items()
    }


def trained(made: Path) -> dict[str, object]:
    """Weights and log of a run, without times."""
    run = made / "run"
    lines = map(json.loads, (run / "log.jsonl").read_text().splitlines())
    log = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    # An interrupt saves a checkpoint of its own step.
    names = sorted(path.name.split("-")[0] for path in run.iterdir() if path.name[0] != ".")
    return {"weights": weights(run / "model.safetensors"), "log": log, "names": names}


@dataclass(frozen=True)
class Job:
    """A command that can be repeated.

    Attributes
    ----------
    line
        Arguments; paths are relative to the folder of the place.
    result
        Its result, by the folder of outputs, without what changes from run to run.
    going_on
        Words of the line that tells an interrupted user how to go on; empty: it starts anew.
    """

    line: str
    result: Callable[[Path], object] = state
    going_on: str = ""
    changes: dict[str, object] = field(default_factory=dict)


_TRAINING = "--data given/photographs --run made/run --threads 1 --device cpu"
_FOLDER = "upscale given/photographs -o made/ --model given/program.safetensors"
_LONG = ("train.iters=30", "train.checkpoint_every=5", "validation.every=10", "train.log_every=7")
_SHORT = (
    *("data.patch_hr=24", "train.batch=2", "train.checkpoint_every=4", "train.log_every=3"),
    *("validation.every=5", "validation.crop_hr=32", "calibration.patch_lr=12"),
)
_AGAIN = "run the same command again to continue"

JOBS = {
    "upscale": Job(f"{_FOLDER} --skip-existing", going_on="--skip-existing goes on"),
    "replace": Job(f"{_FOLDER} --overwrite", going_on="--skip-existing goes on"),
    "prepare": Job(
        "upscale given/photographs/p0.png -o made/o.png --overwrite --threads 1 "
        "--model given/float.safetensors --runtime onnxruntime"
    ),
    "pretrain": Job(f"pretrain edsr --scale 2 {_TRAINING} {_set(*SMALL, *_LONG)}", trained, _AGAIN),
    "quantize": Job(
        "quantize given/float.safetensors --method pams --w 4 --a 4 --iters 12 --no-report "
        f"{_TRAINING} {_set(*_SHORT)}",
        trained,
        _AGAIN,
    ),
    "export": Job("export given/quantized.safetensors -o made/m.onnx --overwrite --threads 1"),
    "import": Job("import given/net.pth -o made/m.safetensors --overwrite"),
    "pack": Job("pack given/quantized.safetensors -o made/m.safetensors --overwrite"),
    "download": Job(
        "data get toy --data-root made",
        going_on="run the same command",
        changes={"call": "tests.hostile.calls:get_toy", "network": True},
    ),
}


def supply(place: Place, models: dict[str, Path]) -> None:
    """Put what the jobs need into a place."""
    for index in range(PICTURES):
        pixels = picture(40 + 2 * index, 52, seed=index)
        write_rgb(place.given / f"photographs/p{index}.png", pixels)
    for path in models.values():
        place.put(path.name, path.read_bytes())
    give(place.folder)


def archive(place: Place) -> bytes:
    """The pictures as an archive that a server offers."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as packed:
        for path in sorted((place.given / "photographs").iterdir()):
            packed.add(path, f"Toy/HR/{path.name}", filter=_plain)
        entry = tarfile.TarInfo("padding")
        entry.size = 2**21
        packed.addfile(entry, io.BytesIO(bytes(entry.size)))
    return buffer.getvalue()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime = entry.uid = entry.gid = 0
    return entry
