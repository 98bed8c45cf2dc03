"""The Python API: what ``import sr_quant_cli as srq`` offers, see docs/python.md.

Nothing here prints. Images are NumPy arrays, Pillow images and torch tensors, and results are of
the kind that was given. Calls may come from any thread.
"""

from sr_quant_cli.api.exporting import export
from sr_quant_cli.api.measuring import evaluate
from sr_quant_cli.api.model import Model, list_models, load_model, upscale
from sr_quant_cli.api.progress import Progress
from sr_quant_cli.api.quantizing import calibrate, quantize

__all__ = [
    "Model",
    "Progress",
    "calibrate",
    "evaluate",
    "export",
    "list_models",
    "load_model",
    "quantize",
    "upscale",
]
