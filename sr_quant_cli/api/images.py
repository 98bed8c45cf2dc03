"""Images as users have them: NumPy arrays, Pillow images and torch tensors."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.imaging.levels import to_levels
from sr_quant_cli.records import record

Levels = NDArray[Any]
"""uint8 or uint16 ``[H, W, C]``; C: grey, grey and alpha, RGB, RGB and alpha"""

_CHANNELS = (1, 2, 3, 4)
_MODES = ("L", "LA", "RGB", "RGBA", "I;16")
"""Modes of Pillow images that hold levels."""
_NOISE = 1e-6
"""Rounding errors of floats that are beyond 0..1."""
_KINDS = "a NumPy array, a Pillow image or a torch tensor"


@record
class Opened:
    """The levels of an image or of a batch, and the way back.

    Attributes
    ----------
    levels
        One for each image of a batch.
    restore
        Makes an image of the kind, type and shape that was given from enlarged levels.
    """

    levels: tuple[Levels, ...]
    restore: Callable[[Sequence[Levels]], Any]


def open_image(image: Any) -> Opened:
    """Read an image; see ``upscale`` for the kinds, types and shapes.

    Raises
    ------
    TypeError
        It is of another kind or type.
    ValueError
        It has another shape, no pixels, or values that are no levels.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if _is(image, "torch", "Tensor"):
        return _from_tensor(image)
    if _is(image, "PIL.Image", "Image"):
        return _from_pillow(image)
    raise TypeError(f"an image is {_KINDS}, not {type(image).__name__}")


def images_in(images: Any) -> Iterator[Levels]:
    """Yield the levels of one image, of a batch, of several images, or of a folder's pictures.

    Raises
    ------
    TypeError, ValueError
        As ``open_image``, or there is no image.
    UsageError
        There is no such folder, it has no pictures, or one is damaged.
    """
    if isinstance(images, str | Path):
        images = _pictures(Path(images))
    elif _is_image(images):
        images = [images]
    elif not isinstance(images, Iterable):
        raise TypeError(f"images are a folder or a sequence, not {type(images).__name__}")
    count = 0
    for image in images:
        for levels in open_image(image).levels:
            count += 1
            yield levels
    if not count:
        raise ValueError("there are no images")


def rgb_of(levels: Levels) -> NDArray[np.uint8]:
    """Round levels to uint8 ``[H, W, 3]``; grey is replicated.

    Raises
    ------
    ValueError
        The image has transparency.
    """
    if levels.shape[2] in (2, 4):
        raise ValueError("an image with transparency is not comparable: remove its alpha channel")
    if levels.dtype == np.uint16:
        levels = np.rint(levels / 257).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(levels, (*levels.shape[:2], 3)))


def _is(image: Any, module: str, name: str) -> bool:
    """Tell if an image is of a class, without importing the module of the class."""
    there = sys.modules.get(module)
    return there is not None and isinstance(image, getattr(there, name))


def _is_image(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return images.ndim < 4
    return _is(images, "torch", "Tensor") or _is(images, "PIL.Image", "Image")


def _pictures(folder: Path) -> Iterator[NDArray[np.uint8]]:
    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.imaging.formats import picture_files
    from sr_quant_cli.imaging.io import read_rgb

    if not folder.is_dir():
        raise UsageError(f"no pictures in {folder}: there is no such folder")
    files = picture_files(folder)
    if not files:
        raise UsageError(f"no pictures in {folder}")
    yield from map(read_rgb, files)


def _from_array(image: NDArray[Any]) -> Opened:
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] not in _CHANNELS):
        raise ValueError(
            "an array is [H, W] or [H, W, C] with C = 1 (grey), 2 (grey and alpha), 3 (RGB) or "
            f"4 (RGB and alpha), not {list(image.shape)}"
        )
    levels = _levels(image[:, :, None] if image.ndim == 2 else image)

    def restore(made: Sequence[Levels]) -> NDArray[Any]:
        values = _values(made[0], image.dtype)
        return values[:, :, 0] if image.ndim == 2 else values

    return Opened((levels,), restore)


def _from_tensor(image: Any) -> Opened:
    torch = sys.modules["torch"]
    if image.dtype != torch.uint8 and not image.is_floating_point():
        raise TypeError(f"a tensor is uint8 or float 0..1, not {str(image.dtype)[6:]}")
    if image.ndim not in (3, 4) or image.shape[-3] not in _CHANNELS:
        raise ValueError(
            "a tensor is [C, H, W] or [N, C, H, W] with C = 3 (RGB), or 1, 2 or 4 as in arrays, "
            f"not {list(image.shape)}"
        )
    batch = image.detach() if image.ndim == 4 else image.detach()[None]
    if not len(batch):
        raise ValueError(f"there is no image in a batch of shape {list(image.shape)}")
    batch = batch.float() if batch.is_floating_point() else batch
    pictures = batch.movedim(1, -1).cpu().numpy()

    def restore(made: Sequence[Levels]) -> Any:
        dtype = np.float32 if image.is_floating_point() else np.uint8
        values = np.stack([_values(each, np.dtype(dtype)) for each in made])
        tensor = torch.from_numpy(values).movedim(-1, 1).contiguous()
        return tensor.to(image.device, image.dtype).reshape(*image.shape[:-2], *tensor.shape[2:])

    return Opened(tuple(_levels(each) for each in pictures), restore)


def _from_pillow(image: Any) -> Opened:
    if image.mode not in _MODES:
        raise ValueError(
            f"a Pillow image is of mode {', '.join(_MODES)}, not {image.mode}: convert it, as "
            "image.convert('RGB')"
        )
    array = np.asarray(image)
    levels = _levels(array[:, :, None] if array.ndim == 2 else array)

    def restore(made: Sequence[Levels]) -> Any:
        (values,) = made
        result = sys.modules["PIL.Image"].fromarray(
            values[:, :, 0] if values.shape[2] == 1 else np.ascontiguousarray(values)
        )
        if "icc_profile" in image.info:
            result.info["icc_profile"] = image.info["icc_profile"]
        return result

    return Opened((levels,), restore)


def _levels(array: NDArray[Any]) -> Levels:
    """Check the type and the values of ``[H, W, C]``, and return levels; of floats 16 bits."""
    kind, size = array.dtype.kind, array.dtype.itemsize
    if not array.size:
        raise ValueError(f"an image has at least one pixel, not the shape {list(array.shape)}")
    if kind == "u" and size <= 2:
        return np.asarray(array).astype(f"u{size}", copy=False)
    if kind != "f":
        raise TypeError(f"an image is uint8, uint16 or float 0..1, not {array.dtype}")
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("an image has finite values, not NaN or infinity")
    if low < -_NOISE or high > 1 + _NOISE:
        raise ValueError(
            f"an image of floats is 0..1, not {low:.4g}..{high:.4g}: divide it by its white, or "
            "clip it"
        )
    return to_levels(np.asarray(array, np.float32), np.uint16)


def _values(levels: Levels, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Convert levels to the type of the image that they come from."""
    if dtype.kind == "f":
        levels = levels / np.float64(np.iinfo(levels.dtype).max)
    return levels.astype(dtype, copy=False)
