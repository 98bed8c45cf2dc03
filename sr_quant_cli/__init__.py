"""Low-bit image super-resolution: train, quantize, measure, export and run networks.

The functions below are the Python API (docs/python.md). They are imported when they are first used,
so that ``import sr_quant_cli`` loads neither NumPy nor torch:

* ``upscale``, ``load_model``, ``list_models``: enlarge images;
* ``calibrate``, ``quantize``: make quantized models;
* ``evaluate``, ``export``: measure models, and write graphs for other programs.

Everything the command line does can be imported from these packages; each of them only imports from
those below it:

* ``api``: the Python API;
* ``commands``: the commands, as functions;
* ``inference`` and ``training``: running models on pictures, and training them;
* ``lowering``: integer graphs for ONNX Runtime and OpenVINO;
* ``modelfiles``, ``recipe``, ``runtimes``: model files and checkpoints, recipes, running of graphs;
* ``passes``: changes to a whole network, such as inserting quantizers;
* ``methods``: the published quantization methods;
* ``networks``: the networks;
* ``quant``: grids, fake quantization, ranges, quantizers;
* ``data``, ``imaging``, ``metrics``: data sets, picture files, PSNR and SSIM;
* ``system``: processes, devices and files; ``system.reporting`` passes on progress and notes.

Problems that a user can solve are raised as ``SrqError``.
"""

__version__ = "0.1.0"

TYPE_CHECKING = False  # as in typing, which takes longer to import than the rest
if TYPE_CHECKING:
    from sr_quant_cli.api import (
        Model,
        Progress,
        calibrate,
        evaluate,
        export,
        list_models,
        load_model,
        quantize,
        upscale,
    )
    from sr_quant_cli.errors import FailedError, SrqError, UsageError

__all__ = [
    "FailedError",
    "Model",
    "Progress",
    "SrqError",
    "UsageError",
    "calibrate",
    "evaluate",
    "export",
    "list_models",
    "load_model",
    "quantize",
    "upscale",
]

_ELSEWHERE = {"FailedError": "errors", "SrqError": "errors", "UsageError": "errors"}
"""Modules of the names that ``api`` does not have."""


def __getattr__(name: str) -> object:
    """Import a part of the API when it is first used."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_ELSEWHERE.get(name, 'api')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
