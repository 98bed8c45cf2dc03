"""Settings that are chosen on the page, and what it offers."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from sr_quant_cli.commands.batch import BatchOptions
from sr_quant_cli.commands.enlarge import PictureOptions, default_suffix
from sr_quant_cli.commands.models import list_models
from sr_quant_cli.commands.sizes import LARGEST, SizeRequest
from sr_quant_cli.errors import UsageError
from sr_quant_cli.imaging.formats import SaveOptions, WritableFormat, writable_formats
from sr_quant_cli.modelfiles.catalog import NamedModel
from sr_quant_cli.modelfiles.named import FAMILIES, model_names
from sr_quant_cli.strict import Strict, in_words

_LABELS = {
    "`frames` first": "'First frame or page only'",
    "`max_pixels`": "the limit of",
    "`format`": "the format",
    "`scale`": "the factor",
    "`width`": "the width",
}
"""Names on the page of what messages call by parameters."""


class PageSettings(Strict):
    """Settings of one enlargement."""

    factor: float | None = None
    """Factor of both sides."""
    width: int | None = None
    """Width of the result in pixels, in place of a factor."""
    model: str | None = None
    """Name of a model; None: the embedded ones."""
    format: str | None = None
    """Key of ``writable_formats``; None: PNG, or the format of an animation or of pages."""
    strip: bool = False
    """Drop all metadata."""
    first_frame: bool = False
    """Enlarge the first frame or page only."""

    @property
    def size(self) -> SizeRequest:
        """Requested size of the result."""
        factors = None if self.factor is None else (self.factor, self.factor)
        return SizeRequest(scale=factors, width=self.width)

    @property
    def frames(self) -> Literal["all", "first"]:
        """Frames or pages to enlarge."""
        return "first" if self.first_frame else "all"

    def suffix(self, source: Path) -> str:
        """Suffix of the result of a picture file."""
        if self.format is not None:
            return writable_formats()[self.format].suffix
        return ".png" if self.first_frame else default_suffix(source)

    def batch_options(self, max_pixels: int) -> BatchOptions:
        """Options of ``srq upscale`` that mean the same."""
        return BatchOptions(
            size=self.size,
            picture=PictureOptions(
                save=SaveOptions(self.format),
                strip=self.strip,
                frames=self.frames,
            ),
            overwrite=True,
            max_pixels=max_pixels,
        )


def read_settings(body: bytes) -> PageSettings:
    """Read settings as the page sends them.

    Raises
    ------
    UsageError
        They are incomplete or impossible.
    """
    try:
        settings = PageSettings.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise UsageError(" ".join((*map(str, first["loc"]), in_words(first)))) from error
    if not settings.size:
        raise UsageError("choose a size")
    settings.batch_options(0)  # refuses an unknown format
    # Names only: the page does not open other files of this computer.
    if settings.model is not None and settings.model not in (*FAMILIES, *model_names()):
        raise UsageError(f"there is no model {settings.model}")
    return settings


def offered() -> dict[str, Any]:
    """List the models and formats for the page, as plain values.

    Raises
    ------
    UsageError
        The user's folder of models cannot be read.
    """
    return {
        "models": [
            {
                "name": model.name,
                "label": _label(model),
                "own": model.owner == "user",
                "usable": not model.problem,
            }
            for model in list_models().models
        ],
        "formats": [
            {"key": form.key, "name": form.name, "note": _note(form)}
            for form in writable_formats().values()
        ],
        "largest_factor": LARGEST,
    }


def in_labels(text: str) -> str:
    """Replace parameters in a message by their names on the page.

    >>> in_labels("more than `max_pixels` 100 allows")
    'more than the limit of 100 allows'
    """
    for parameter, label in _LABELS.items():
        text = text.replace(parameter, label)
    return re.sub(r"`(\w+)`", r"\1", text)


def _label(model: NamedModel) -> str:
    parts = [model.name]
    if model.problem:
        return f"{model.name} (cannot be used)"
    if model.scale is not None:
        parts.append(f"x{model.scale}")
    if model.bits is not None:
        weights = re.match(r"w(\d+)(L?)", model.bits)
        unit = "levels" if weights and weights[2] else "bits"
        parts.append(f"{weights[1]} {unit}" if weights else "full precision")
    return ", ".join(parts)


def _note(form: WritableFormat) -> str:
    if form.colours is not None:
        return f"{form.colours} colours"
    return ", ".join(
        ["lossless" if form.quality is None else "smaller"] + ["16 bits"] * (form.bits == 16)
    )
