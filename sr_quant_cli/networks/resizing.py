"""Resizing as ONNX defines it, for imported networks.

References
----------
.. [1] Operator Resize, https://onnx.ai/onnx/operators/onnx__Resize.html
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_CENTRES = ("half_pixel", "pytorch_half_pixel")
_PLACES = (*_CENTRES, "align_corners", "asymmetric")
"""how pixels of the output lie over those of the input, by the names in ONNX"""

_MODES = {"nearest": "nearest", "linear": "bilinear", "bilinear": "bilinear", "cubic": "bicubic"}
"""names in torch of the forms of interpolation"""

_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "floor": torch.floor,
    "ceil": torch.ceil,
    "round_prefer_floor": lambda at: (at - 0.5).ceil(),
    "round_prefer_ceil": lambda at: (at + 0.5).floor(),
}


def resize(
    x: Tensor,
    region: Any = None,
    scales: Any = None,
    sizes: Any = None,
    *,
    mode: str = "nearest",
    coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor",
    cubic_coeff_a: float = -0.75,
    axes: Sequence[int] | None = None,
    keep_aspect_ratio_policy: str = "stretch",
    antialias: int = 0,
    **_: Any,
) -> Tensor:
    """Resize height and width: ``[N, C, H, W]`` -> ``[N, C, H', W']``.

    Raises
    ------
    ValueError
        The form of interpolation is not known.
    """
    place = coordinate_transformation_mode
    if mode not in _MODES or place not in _PLACES or (mode == "cubic" and place == "asymmetric"):
        raise ValueError(f"Resize with {mode} and {place} is not known")
    if mode == "cubic" and cubic_coeff_a != -0.75:
        raise ValueError(f"Resize: a cubic kernel of {cubic_coeff_a:g} is not known; -0.75 is")
    if antialias or keep_aspect_ratio_policy != "stretch":
        raise ValueError("Resize with antialias or keep_aspect_ratio_policy is not known")
    by_size = sizes is not None and np.size(sizes) > 0
    given = list(np.ravel(sizes if by_size else scales))
    if axes is not None:
        by_axis = dict(zip((axis % x.ndim for axis in axes), given, strict=True))
        given = [by_axis.get(axis, x.shape[axis] if by_size else 1) for axis in range(x.ndim)]
    given = given[-2:]
    target: dict[str, Any] = (
        {"size": given} if by_size else {"scale_factor": [float(s) for s in given]}
    )
    if mode == "nearest":
        if place == "asymmetric" and nearest_mode == "floor":
            return F.interpolate(x, **target, mode="nearest")
        # Enlarged by a whole factor, each pixel is repeated, whatever a half is rounded to.
        whole = not by_size and all(scale >= 1 and float(scale).is_integer() for scale in given)
        if whole and place in _CENTRES and nearest_mode.startswith("round"):
            return F.interpolate(x, **target, mode="nearest-exact")
    elif place != "asymmetric":
        corners = place == "align_corners"
        return F.interpolate(x, **target, mode=_MODES[mode], align_corners=corners)
    for axis, wanted in zip((2, 3), given, strict=True):
        size = x.shape[axis]
        out = wanted if by_size else int(size * wanted)
        at = _positions(size, out, wanted / size if by_size else wanted, place, x.device)
        if mode == "nearest":
            where = _ROUNDINGS[nearest_mode](at).clamp(0, size - 1).long()
            x = x.index_select(axis, where)
        else:
            x = _blend(x, axis, at.clamp(0, size - 1))
    return x


def upsample(x: Tensor, scales: Any = None, *, mode: str = "nearest") -> Tensor:
    """Enlarge as ONNX did before its version 11: pixels start where those of the input do."""
    return resize(
        x,
        None,
        scales,
        mode=mode,
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _positions(size: Any, out: Any, scale: Any, place: str, device: torch.device) -> Tensor:
    """Positions of the output's pixels in the input, ``[out]``."""
    at: Tensor = torch.arange(out, dtype=torch.float64, device=device)
    if place == "align_corners":
        at = at * ((size - 1) / max(out - 1, 1))
    else:
        at = at / scale if place == "asymmetric" else (at + 0.5) / scale - 0.5
    return at


def _blend(x: Tensor, axis: int, at: Tensor) -> Tensor:
    """Interpolate linearly between the two pixels beside each position."""
    low = at.floor()
    left = x.index_select(axis, low.long())
    right = x.index_select(axis, at.ceil().long())
    part = (at - low).to(x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
    return left + (right - left) * part
