"""From what a user names (a file, or a scale alone) to something that upscales."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sr_quant_cli.engine.device import PrecisionChoice, pick_precision
from sr_quant_cli.errors import UsageError
from sr_quant_cli.inference.upscaler import NetworkUpscaler, OnnxUpscaler, Upscaler
from sr_quant_cli.networks.base import check_scale
from sr_quant_cli.networks.modelfile import load_model
from sr_quant_cli.resources import models_dir


def embedded_model(scale: int) -> Path:
    """The embedded full-precision model of a scale.

    Raises
    ------
    UsageError
        There is none of that scale.
    """
    check_scale(scale)
    path = models_dir() / f"edsr-baseline-x{scale}.safetensors"
    if not path.is_file():
        raise UsageError(f"no embedded model for x{scale}; name one with --model FILE")
    return path


def open_network(
    path: Path, device: torch.device, precision: PrecisionChoice, tile: int | None = None
) -> NetworkUpscaler:
    """Load an srq model file for inference.

    Raises
    ------
    UsageError
        The file is not usable.
    """
    network, header = load_model(path)
    return NetworkUpscaler(
        network, header.card.name or path.stem, device, pick_precision(precision, device), tile
    )


def common_scale(upscalers: Sequence[Upscaler], scale: int | None) -> int:
    """The scale that the models share and the user asked for; 4 where neither says.

    Raises
    ------
    UsageError
        The scales differ, or ``scale`` is none of 2, 3, 4.
    """
    if scale is not None:
        check_scale(scale)
    scale = scale or (upscalers[0].scale if upscalers else 4)
    for upscaler in upscalers:
        if upscaler.scale != scale:
            raise UsageError(f"model {upscaler.name} enlarges by {upscaler.scale}, not by {scale}")
    return scale


def open_model(path: Path, device: torch.device, threads: int | None = None) -> Upscaler:
    """Load a model for measuring, in float32: an srq file, or ONNX by its suffix.

    Raises
    ------
    UsageError
        The file is not usable.
    """
    if path.suffix.lower() == ".onnx":
        return OnnxUpscaler(path, threads)
    return open_network(path, device, "fp32")
