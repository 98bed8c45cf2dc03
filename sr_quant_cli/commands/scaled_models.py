"""Models by their scales: those that serve a batch, and those that are to agree."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sr_quant_cli.commands.sizes import DEFAULT_FACTOR, SizeRequest, network_scale
from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.modelfiles.named import (
    Family,
    Source,
    embedded_scales,
    family_named,
    has_embedded_model,
    identify,
)
from sr_quant_cli.scales import SCALES, check_enlargement
from sr_quant_cli.system.reporting import note

_FINE_JPEG = 85
"""quality from which the model for clean pictures is as close to the original (docs/results.md)"""


@dataclass
class ScaledModels:
    """The model that the user named, or the embedded one of each scale, opened when needed.

    Attributes
    ----------
    named
        Model that serves all pictures; None: the embedded ones.
    family
        Family of the embedded ones; None: ``photo`` for JPEG below a quality of 85, else ``clean``.
    options
        Options of running the embedded ones.
    """

    named: Upscaler | None = None
    family: Family | None = None
    options: RunOptions = field(default_factory=RunOptions)
    _opened: dict[tuple[Family, int, int], Upscaler] = field(default_factory=dict)

    def family_for(self, jpeg_quality: int | None = None) -> Family:
        """Family of the embedded models that serve a picture.

        Parameters
        ----------
        jpeg_quality
            Quality of a picture that is stored as JPEG; None: of any other one.
        """
        if self.family is not None:
            return self.family
        there = any(has_embedded_model(scale, "photo") for scale in SCALES)
        compressed = jpeg_quality is not None and jpeg_quality < _FINE_JPEG
        return "photo" if compressed and there else "clean"

    def scale_for(self, factor: float | None, family: Family | None = None) -> int:
        """Scale of the network that serves a factor.

        Parameters
        ----------
        factor
            None: the scale without any request.
        family
            From ``family_for``; None: that of pictures other than JPEG.

        Raises
        ------
        UsageError
            There is no model of that family.
        """
        if self.named is not None:
            return self.named.scale
        family = family or self.family_for()
        return network_scale(DEFAULT_FACTOR if factor is None else factor, embedded_scales(family))

    def open(self, scale: int, bits: int = 8, family: Family | None = None) -> Upscaler:
        """Return the model of a scale from ``scale_for``, for pictures of 8 or 16 bits.

        A note says so when a picture is the first to have another model because it is JPEG.

        Raises
        ------
        UsageError
            It does not offer what the options ask for.
        FailedError
            Its runtime cannot be prepared.
        """
        if self.named is not None:
            return self.named
        family = family or self.family_for()
        key = (family, scale, bits)
        if key not in self._opened:
            if family == "photo" != self.family and not any(
                family in opened for opened in self._opened
            ):
                note("compressed JPEG: the model for photographs is used; `model` clean is sharper")
            self._opened[key] = open_model(identify(family, scale), self.options, bits)
        return self._opened[key]

    @property
    def in_use(self) -> list[Upscaler]:
        """The models that were opened."""
        return [self.named] if self.named is not None else list(self._opened.values())


def find_models(model: str | None, size: SizeRequest, options: RunOptions) -> ScaledModels:
    """Find the models for a request; one that is named, and no family, is opened.

    A checkpoint may hold several scales, or none in its tensors: a whole factor then names one.

    Raises
    ------
    UsageError
        There is no such model, or it does not offer what the options ask for.
    FailedError
        The runtime cannot be prepared.
    """
    family = family_named(model)
    if model is None or family is not None:
        return ScaledModels(family=family, options=options)
    source = identify(model)
    if source.kind == "checkpoint" and size.whole_factor in SCALES:
        source = replace(source, scale=size.whole_factor)
    return ScaledModels(open_model(source, options))


def check_stated_scales(sources: Iterable[Source], scale: int | None) -> None:
    """Refuse models whose files state different scales, before any of them is opened.

    Parameters
    ----------
    scale
        Scale that they must have; None: that of the first one that states any.

    Raises
    ------
    UsageError
        The scales differ.
    """
    from sr_quant_cli.modelfiles.catalog import describe  # slow to import

    for source in sources:
        model = describe(source.path.stem, source)
        if model.scale is not None:
            scale = scale or model.scale
            check_enlargement(model.card.name or model.name, model.scale, scale)
