"""``srq report``: everything about models that a page shows."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sr_quant_cli.commands.gather import Subject, gather
from sr_quant_cli.commands.layers import Layers, LayersRequest, layers
from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.io import read_rgb
from sr_quant_cli.imaging.sheet import most_different, usual_crop
from sr_quant_cli.imaging.tiling import Region
from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import BicubicUpscaler
from sr_quant_cli.modelfiles.named import RECIPE, Named, identify
from sr_quant_cli.recipe.load import dump_recipe, load_recipe
from sr_quant_cli.runtimes.registry import AUTO
from sr_quant_cli.system.reporting import note, track

Pixels = NDArray[np.uint8]

MOST_PIXELS = 512 * 512
"""LR pixels of the largest picture that is shown."""
MOST_RESULTS = 6
"""Models whose results are shown."""


@dataclass(frozen=True)
class ReportRequest:
    """Request for ``report``.

    Attributes
    ----------
    named
        Run folders, study folders, models, and JSON reports of ``srq eval`` and ``srq bench``.
    image
        LR picture to show; None: a photograph that scikit-image carries, reduced.
    layers
        Measure the layers of quantized models.
    sensitivity
        Also measure what each layer loses alone.
    data
        Folder or name of the photographs that layers are measured on.
    """

    named: tuple[Named, ...]
    image: Path | None = None
    layers: bool = True
    sensitivity: bool = False
    data: str = "sample"
    data_root: Path | None = None


@dataclass(frozen=True)
class Result:
    """A picture that a model enlarged, uint8 ``[H, W, 3]``."""

    name: str
    pixels: Pixels


@dataclass(frozen=True)
class Pictures:
    """The same picture by several models.

    Attributes
    ----------
    results
        Bicubic, the models, and HR where it is known; all of one size.
    crop
        Where the models differ most.
    """

    name: str
    scale: int
    results: tuple[Result, ...]
    crop: Region


@dataclass(frozen=True)
class Report:
    """Facts, layers and pictures of models."""

    subjects: tuple[Subject, ...]
    layers: dict[str, Layers]
    """by the names of the models"""
    pictures: Pictures | None
    """None: there is no model file"""
    recipes: dict[str, str]
    """resolved recipes of run folders, as TOML"""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the pictures."""
        return {
            "models": [subject.to_json() for subject in self.subjects],
            "layers": {name: each.to_json() for name, each in self.layers.items()},
            "recipes": self.recipes,
        }


def report(request: ReportRequest) -> Report:
    """Collect what a page about models shows.

    Raises
    ------
    UsageError
        A model, report or picture is not usable.
    """
    subjects = gather(request.named)
    measured = {}
    if request.layers:
        for subject in subjects:
            if subject.info is not None and subject.info.quantization is not None:
                measured[subject.name] = layers(
                    LayersRequest(
                        subject.info.file,
                        data=request.data,
                        sensitivity=request.sensitivity,
                        data_root=request.data_root,
                    )
                )
    return Report(
        tuple(subjects), measured, _pictures(request.image, subjects), dict(_recipes(subjects))
    )


def _recipes(subjects: Sequence[Subject]) -> list[tuple[str, str]]:
    return [
        (subject.name, dump_recipe(load_recipe(str(subject.run.folder / RECIPE))))
        for subject in subjects
        if subject.run is not None
    ]


def _pictures(image: Path | None, subjects: Sequence[Subject]) -> Pictures | None:
    """Enlarge a picture by bicubic interpolation and by the models of the first one's scale."""
    models = [subject for subject in subjects if subject.info is not None]
    if not models:
        return None
    assert models[0].info is not None
    scale = models[0].info.scale
    same = [each for each in models if each.info is not None and each.info.scale == scale]
    name, lr, hr = _example(image, scale)
    results = [Result("bicubic", BicubicUpscaler(scale)(lr))]
    shown = same[:MOST_RESULTS]
    if len(same) > len(shown):
        note(f"pictures of the first {MOST_RESULTS} of {len(same)} models")
    for subject in track(shown, len(shown), "model", name):
        upscale = open_model(identify(subject.path), RunOptions(runtime=AUTO))
        results.append(Result(subject.name, upscale(lr)))
    height, width, _ = results[0].pixels.shape
    compared = results[1:] if len(results) > 2 else results
    crop = most_different([each.pixels for each in compared], *usual_crop(height, width))
    if hr is not None:
        results.append(Result("HR", hr))
    return Pictures(name, scale, tuple(results), crop)


def _example(image: Path | None, scale: int) -> tuple[str, Pixels, Pixels | None]:
    """Name, LR and, where it is known, HR."""
    if image is not None:
        lr = read_rgb(image)
        if lr.shape[0] * lr.shape[1] > MOST_PIXELS:
            raise UsageError(
                f"must have at most {MOST_PIXELS:,} pixels, since results of all models are part "
                "of the page; cut out a part of it",
                field="image",
                value=image,
            )
        return image.name, lr, None
    from skimage import data

    whole = data.coffee()
    height, width = (side // scale * scale for side in whole.shape[:2])
    hr = np.ascontiguousarray(whole[:height, :width])
    return "coffee (scikit-image)", downscale(hr, scale), hr
