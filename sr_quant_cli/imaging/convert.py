"""Conversion between pixels and tensors."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sr_quant_cli.errors import FailedError


def to_tensor(
    pixels: NDArray[np.uint8] | NDArray[np.float32] | Tensor, device: torch.device
) -> Tensor:
    """Convert ``[N, H, W, 3]`` to float32 0..1 ``[N, 3, H, W]``, channels last in memory.

    Parameters
    ----------
    pixels
        uint8, or float32 0..1.
    """
    if isinstance(pixels, np.ndarray):
        pixels = torch.from_numpy(np.require(pixels, requirements=["C", "W"]))
    picture = pixels.to(device).permute(0, 3, 1, 2)
    return picture if picture.is_floating_point() else picture.float().div_(255)


def to_pixels(picture: Tensor) -> NDArray[np.uint8]:
    """Convert float 0..1 ``[..., 3, H, W]`` to uint8 ``[..., H, W, 3]``.

    Values are clipped and rounded half to even.

    Raises
    ------
    FailedError
        A value is not finite.
    """
    if not picture.isfinite().all():
        raise FailedError("the network's output is not a number, or infinite")
    levels = (picture * 255).round_().clamp_(0, 255).to(torch.uint8)
    return levels.movedim(-3, -1).contiguous().cpu().numpy()
