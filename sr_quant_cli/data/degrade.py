"""Degradations of LR patches: blur, other kernels, noise and JPEG, as photographs have them.

Networks that are trained on clean, bicubically reduced pictures sharpen noise and the blocks of
JPEG. Those trained on degraded patches with clean targets remove them [1]_.

References
----------
.. [1] K. Zhang, J. Liang, L. Van Gool, R. Timofte, "Designing a practical degradation model for
   deep blind image super-resolution", ICCV 2021: the kinds of degradations. The order here is
   fixed: blur, reduction, noise, JPEG.
"""

from collections.abc import Sequence
from io import BytesIO
from typing import Annotated, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, ValidationError, model_validator

from sr_quant_cli.errors import UsageError
from sr_quant_cli.strict import Strict, in_words

Kernel = Literal["box", "bilinear", "bicubic", "lanczos"]
Share = Annotated[float, Field(ge=0, le=1)]
Strength = Annotated[float, Field(ge=0, le=100)]
Limits = Annotated[list[Strength], Field(min_length=2, max_length=2)]
"""Smallest and largest value; each patch has one between them, all equally likely."""

SURROUNDINGS = 16
"""LR pixels around a patch that are degraded with it and then cut off, as far as there are any."""


class Degradations(Strict):
    """``[degradations]``: how LR patches differ from clean, bicubically reduced ones."""

    kernels: list[Kernel] = Field(default=["bicubic"], min_length=1)
    """kernels that reduce HR, one for each patch"""
    blur: Limits = Field(default=[0.0, 0.0])
    """standard deviation of a Gaussian blur before the reduction, in LR pixels"""
    blur_share: Share = 1.0
    """share of the patches that are blurred"""
    noise: Limits = Field(default=[0.0, 0.0])
    """standard deviation of Gaussian noise on LR, on values 0..255; grey in every second patch"""
    shot: Limits = Field(default=[0.0, 0.0])
    """standard deviation of Poisson noise at white, on values 0..255"""
    noise_share: Share = 1.0
    """share of the patches with both kinds of noise"""
    jpeg: Annotated[list[Annotated[int, Field(ge=1, le=100)]], Field(max_length=2)] = Field(
        default=[]
    )
    """smallest and largest quality of JPEG, 1 to 100; empty: no JPEG. Every second patch has colour
    at half resolution"""
    jpeg_share: Share = 1.0
    """share of the patches that are stored as JPEG"""

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        for name in _KINDS:
            limits = getattr(self, name)
            if limits and (len(limits) != 2 or limits[0] > limits[1]):
                raise ValueError(f"{name} = {limits}: needs the smallest and the largest value")
        return self

    @property
    def active(self) -> bool:
        """True if any patch may differ from a clean one."""
        return self != CLEAN

    def degrade(
        self,
        lr: NDArray[np.uint8],
        hr: NDArray[np.uint8],
        random: np.random.Generator,
    ) -> NDArray[np.uint8]:
        """Degrade an LR picture.

        Parameters
        ----------
        lr
            Clean picture, uint8 ``[h, w, 3]``; it is returned if nothing applies.
        hr
            What it was made of, uint8 ``[s*h, s*w, 3]``.
        random
            Source of all choices.

        Returns
        -------
        NDArray[np.uint8]
            ``[h, w, 3]``.
        """
        kernel = self.kernels[int(random.integers(len(self.kernels)))]
        blur = _uniform(random, self.blur) if random.random() < self.blur_share else 0.0
        if blur > 0 or kernel != "bicubic":
            lr = _reduced(hr, lr.shape[0], lr.shape[1], kernel, blur)
        if random.random() < self.noise_share:
            lr = _noisy(lr, _uniform(random, self.noise), _uniform(random, self.shot), random)
        if self.jpeg and random.random() < self.jpeg_share:
            quality = int(random.integers(self.jpeg[0], self.jpeg[1] + 1))
            lr = _through_jpeg(lr, quality, half_colour=bool(random.random() < 0.5))
        return lr


_KINDS = ("blur", "noise", "shot", "jpeg")
"""Kinds with a strength, in the order in which they are applied."""

CLEAN = Degradations()
"""No degradations."""


def parse_degradations(text: str) -> Degradations:
    """Read degradations of fixed strength, such as ``noise:10,jpeg:75``.

    >>> parse_degradations("noise:10,jpeg:75").noise
    [10.0, 10.0]

    Raises
    ------
    UsageError
        A kind is unknown or named twice, or its strength is out of range.
    """
    strengths: dict[str, list[str]] = {}
    for part in text.split(","):
        kind, _, strength = part.strip().partition(":")
        if kind in strengths:
            raise UsageError(f"names {kind} twice", field="degrade", value=text)
        if kind not in _KINDS:
            raise UsageError(
                f"must be {', '.join(f'{kind}:STRENGTH' for kind in _KINDS)}, or several joined by "
                "commas",
                field="degrade",
                value=text,
            )
        strengths[kind] = [strength, strength]
    try:
        return Degradations.model_validate(strengths, strict=False)
    except ValidationError as error:
        wrong = error.errors()[0]
        raise UsageError(
            f"{wrong['loc'][0]} {in_words(wrong)}", field="degrade", value=text
        ) from error


def in_order(degradations: Degradations) -> str:
    """Write degradations of fixed strength in the order in which they are applied.

    >>> in_order(parse_degradations("jpeg:75,noise:5"))
    'noise:5,jpeg:75'
    """
    strengths = {kind: getattr(degradations, kind) for kind in _KINDS}
    return ",".join(f"{kind}:{limits[0]:g}" for kind, limits in strengths.items() if any(limits))


def _uniform(random: np.random.Generator, limits: Sequence[float]) -> float:
    low, high = limits
    return random.uniform(low, high)


def _reduced(
    hr: NDArray[np.uint8], height: int, width: int, kernel: Kernel, blur: float
) -> NDArray[np.uint8]:
    from PIL import Image  # slow to import, and most recipes do without

    if blur > 0:
        from skimage.filters import gaussian

        sigma = blur * hr.shape[0] / height
        hr = _levels(gaussian(hr, sigma, mode="nearest", preserve_range=True, channel_axis=-1))
    resampling = Image.Resampling[kernel.upper()]
    return np.asarray(Image.fromarray(hr).resize((width, height), resampling))


def _noisy(
    lr: NDArray[np.uint8], noise: float, shot: float, random: np.random.Generator
) -> NDArray[np.uint8]:
    """Add noise whose variance is ``noise**2`` plus, in proportion to the value, ``shot**2``."""
    if noise == shot == 0:
        return lr
    channels = 1 if random.random() < 0.5 else 3
    values = lr.astype(np.float64)
    if shot:
        # A value v stands for n = v * 255 / shot^2 photons, whose number has the variance n.
        photons = 255 / shot**2
        values = random.poisson(values * photons) / photons
    return _levels(values + noise * random.standard_normal((*lr.shape[:2], channels)))


def _through_jpeg(lr: NDArray[np.uint8], quality: int, *, half_colour: bool) -> NDArray[np.uint8]:
    from PIL import Image

    file = BytesIO()
    subsampling = "4:2:0" if half_colour else "4:4:4"
    Image.fromarray(lr).save(file, "JPEG", quality=quality, subsampling=subsampling)
    return np.asarray(Image.open(file))


def _levels(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    return values.round().clip(0, 255).astype(np.uint8)
