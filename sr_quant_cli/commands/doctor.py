"""``srq doctor``: what this installation has, and how fast it is."""

import os
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sr_quant_cli import __version__
from sr_quant_cli.commands.cache import Cache, show_cache
from sr_quant_cli.data.benchmark import data_root
from sr_quant_cli.data.catalog import DATASETS
from sr_quant_cli.errors import SrqError
from sr_quant_cli.imaging.formats import picture_files
from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.library import FORCED, PORTABLE, available, kernels_of, missing
from sr_quant_cli.modelfiles.named import identify, user_models
from sr_quant_cli.modelfiles.programs import read_program
from sr_quant_cli.plugins import Kind, Offer, offers
from sr_quant_cli.runtimes.registry import AUTO, load_plugins, runtimes
from sr_quant_cli.system.files import user_models_dir
from sr_quant_cli.system.processes import cores
from sr_quant_cli.system.processor import features, processor_name

_PACKAGES = (
    *("numpy", "torch", "pyvips", "pillow", "safetensors", "pydantic"),
    *("onnx", "onnxruntime", "openvino", "starlette", "tensorboard"),
)
_TELLING = ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "amx_int8", "asimd", "asimddp", "sve")
"""Features of processors that decide how fast integers are multiplied, by Linux's names."""
_KINDS: tuple[Kind, ...] = ("method", "network", "runtime", "recipe")
_SECONDS = 1.5
_SIZE = (96, 128)
"""Height and width of the picture of the self-test, LR pixels."""
_ROUNDINGS = 4
"""Levels by which kernels in plain C, which round products and sums apart, may differ."""


@dataclass(frozen=True)
class RuntimeState:
    """A runtime, and the reason why it cannot run here; empty: it can."""

    name: str
    problem: str


@dataclass(frozen=True)
class SelfTest:
    """The default model on a picture again and again, for about two seconds.

    Attributes
    ----------
    milliseconds
        Shortest time of a picture; None: it failed.
    megapixels_per_second
        SR pixels by that time.
    problem
        What failed; empty: all results were equal, and agree with those of the kernels in plain C.
    """

    model: str = ""
    runtime: str = ""
    width: int = _SIZE[1]
    height: int = _SIZE[0]
    milliseconds: float | None = None
    megapixels_per_second: float | None = None
    problem: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """State of the installation.

    Attributes
    ----------
    versions
        Versions of srq, Python and packages; empty: not installed.
    features
        Features of the processor that matter for integers.
    kernels
        Instruction sets that srq's own kernels can use here, the best first.
    kernels_problem
        Reason why there are no kernels; empty: there are.
    data
        Number of pictures of each data set that is there, in its first folder.
    plugins
        What installed packages add.
    """

    versions: dict[str, str]
    platform: str
    processor: str
    cores: int
    features: tuple[str, ...]
    cuda: str
    kernels: tuple[str, ...]
    kernels_problem: str
    runtimes: tuple[RuntimeState, ...]
    data_root: Path
    data: dict[str, int]
    cache: Cache
    models: Path
    own_models: int
    plugins: tuple[Offer, ...]
    self_test: SelfTest

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **asdict(self),
            "data_root": str(self.data_root),
            "models": str(self.models),
            "cache": self.cache.to_json(),
        }


def diagnose(root: Path | None = None) -> Diagnosis:
    """Look at the installation, and measure it; a problem of a part is a part of the result.

    Parameters
    ----------
    root
        Folder of the data sets; None: ``SRQ_DATA``, else ``datasets``.
    """
    load_plugins()
    root = data_root(root)
    return Diagnosis(
        versions={
            "srq": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
        platform=platform.platform(),
        processor=processor_name(),
        cores=cores(),
        features=tuple(name for name in _TELLING if name in features().split()),
        cuda=torch.cuda.get_device_name() if torch.cuda.is_available() else "",
        kernels=tuple(available()),
        kernels_problem=missing(),
        runtimes=tuple(RuntimeState(entry.name, entry.missing) for entry in runtimes()),
        data_root=root.absolute(),
        data=_data(root),
        cache=show_cache(),
        models=user_models_dir(),
        own_models=_own_models(),
        plugins=tuple(offer for kind in _KINDS for offer in offers(kind)),
        self_test=_self_test(),
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _data(root: Path) -> dict[str, int]:
    # Of a set and one that holds it, the smaller one comes last.
    names = {root / dataset.parts[0].folder: dataset.name for dataset in DATASETS.values()}
    counts = {name: len(picture_files(at)) for at, name in names.items() if at.is_dir()}
    return {name: count for name, count in counts.items() if count}


def _own_models() -> int:
    try:
        return len(user_models())
    except SrqError:
        return 0


def _self_test() -> SelfTest:
    lr = np.random.default_rng(0).integers(0, 256, (*_SIZE, 3), np.uint8)
    try:
        upscaler = open_model(identify(None), RunOptions(runtime=AUTO))
        first, seconds = upscaler(lr), []
        ended = time.perf_counter() + _SECONDS
        while time.perf_counter() < ended:
            begun = time.perf_counter()
            same = np.array_equal(upscaler(lr), first)
            seconds.append(time.perf_counter() - begun)
            if not same:
                return SelfTest(problem="the same picture gave different results")
        problem = _differs_from_plain(lr[:24, :24])
    except SrqError as error:
        return SelfTest(problem=str(error))
    best = min(seconds)
    return SelfTest(
        upscaler.name,
        upscaler.ran_by or "",
        milliseconds=round(1000 * best, 2),
        megapixels_per_second=round(first.shape[0] * first.shape[1] / best / 1e6, 2),
        problem=problem,
    )


def _differs_from_plain(lr: Any) -> str:
    """Compare the kernels that are used with those in plain C; empty: they agree."""
    shipped = read_program(identify(None).path)
    if shipped is None or not available():
        return ""
    name = os.environ.get(FORCED) or available()[0]
    used, plain = (
        Executor(shipped.program, 1, kernels_of(isa))(lr).astype(int) for isa in (name, PORTABLE)
    )
    off = int(np.abs(used - plain).max())
    if off <= _ROUNDINGS:
        return ""
    return f"the kernels for {name} are up to {off} levels from those in plain C"
