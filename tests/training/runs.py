"""Small training runs that several test modules start."""

import json
import os
from dataclasses import replace

from sr_quant_cli.commands.pretrain import PretrainRequest, pretrain
from sr_quant_cli.modelfiles.modelfile import load_model

SMALL = (
    "network.n_blocks=1",
    "network.n_feats=8",
    "data.patch_hr=24",
    "train.batch=2",
    "train.iters=12",
    "train.log_every=3",
    "train.checkpoint_every=4",
    "train.precision=fp32",
    "validation.every=5",
    "validation.crop_hr=32",
    "optim.lr=1e-3",
)


def request(photographs, run_dir, *overrides, **changes):
    base = PretrainRequest(
        network="edsr",
        scale=2,
        data=str(photographs),
        recipe="pretrain-edsr",
        overrides=(*SMALL, *overrides),
        run_dir=run_dir,
        device="cpu",
        threads=1,
    )
    return replace(base, **changes)


def weights(run_dir):
    network, _ = load_model(run_dir / "model.safetensors")
    return network.state_dict()


def equal(a, b):
    return all((a[key] == b[key]).all() for key in a)


def entries(run_dir):
    """The log without its times."""
    lines = (run_dir / "log.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def train_in_child(
    wanted: PretrainRequest, cache: str, die_at: str = "", interrupt_at: int | None = None
) -> None:
    """Body of a child process: one run, killed at a call that the parent cannot time.

    Or interrupted in a step: signals are for processes of their own, not for that of the tests,
    where the libraries that run graphs are loaded.
    """
    import signal
    import sys

    os.environ["SRQ_CACHE"] = cache
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115 - for the whole process
    if die_at:
        _die_in(die_at, signal.SIGKILL)
    if interrupt_at is not None:
        signal_in(interrupt_at, signal.SIGINT)
    pretrain(wanted)


def signal_in(step: int, number: int) -> None:
    """Send this process a signal in the middle of a step."""
    from sr_quant_cli.training.loop import Trainer

    original = Trainer._train_step

    def interrupted(self, *args):
        if self.step == step:
            os.kill(os.getpid(), number)
        return original(self, *args)

    Trainer._train_step = interrupted


def _die_in(call: str, number: int) -> None:
    """Kill this process in the fifth call of a function of the file system or of torch."""
    from pathlib import Path

    import torch

    owner, name = {
        "save": (torch, "save"),
        "fsync": (os, "fsync"),
        "rename": (Path, "replace"),
    }[call.partition(" ")[2]]
    original = getattr(owner, name)
    count = 0

    def deadly(*args, **kwargs):
        nonlocal count
        count += 1
        if count < 5:
            return original(*args, **kwargs)
        if call.startswith("after"):
            original(*args, **kwargs)
        elif name == "save":
            args[1].write(b"half a checkpoint")
            args[1].flush()
        os.kill(os.getpid(), number)
        return None

    setattr(owner, name, deadly)
