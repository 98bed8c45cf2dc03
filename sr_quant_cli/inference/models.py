"""From what a user names (a file, or a scale alone) to something that upscales."""

from collections.abc import Sequence
from pathlib import Path

import torch

from sr_quant_cli.engine.device import PrecisionChoice, pick_precision
from sr_quant_cli.errors import UsageError
from sr_quant_cli.inference.upscaler import NetworkUpscaler, OnnxUpscaler, Upscaler
from sr_quant_cli.networks.base import Depth, Network, check_scale
from sr_quant_cli.networks.folding import fold_exactly
from sr_quant_cli.networks.modelfile import Header, load_model
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


def load_at_depth(path: Path, depth: Depth) -> tuple[Network, Header]:
    """Load an srq model file to run at a depth.

    Raises
    ------
    UsageError
        The file is not usable, or its network cannot run at that depth.
    """
    network, header = load_model(path)
    try:
        network.set_depth(depth)
    except ValueError as error:
        raise UsageError(f"--depth {depth}: {path}: {error}") from error
    return network, header


def open_network(
    path: Path,
    device: torch.device,
    precision: PrecisionChoice,
    tile: int | None = None,
    depth: Depth = "full",
) -> NetworkUpscaler:
    """Load an srq model file for inference; a float network is folded.

    Raises
    ------
    UsageError
        The file is not usable, or its network cannot run at that depth.
    """
    network, header = load_at_depth(path, depth)
    if network.quantization is None:
        network = fold_exactly(network)
    name = header.card.name or path.stem
    if depth != "full":
        name = f"{name}, {depth} depth"
    return NetworkUpscaler(network, name, device, pick_precision(precision, device), tile)


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


def open_model(
    path: Path, device: torch.device, threads: int | None = None, depth: Depth = "full"
) -> Upscaler:
    """Load a model for measuring, in float32: an srq file, or ONNX by its suffix.

    Raises
    ------
    UsageError
        The file is not usable, or its network cannot run at that depth.
    """
    if path.suffix.lower() != ".onnx":
        return open_network(path, device, "fp32", depth=depth)
    if depth != "full":
        raise UsageError(f"--depth {depth}: {path} is an ONNX file, whose depth is fixed")
    return OnnxUpscaler(path, threads)
