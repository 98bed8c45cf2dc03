"""Models by their scales: those that serve a batch, and those that are to agree."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from sr_quant_cli.commands.sizes import DEFAULT_FACTOR, SizeRequest, network_scale
from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.modelfiles.named import Source, has_embedded_model, identify
from sr_quant_cli.scales import SCALES, check_enlargement


@dataclass
class ScaledModels:
    """The model that the user named, or the embedded one of each scale, opened when needed.

    Attributes
    ----------
    named
        Model that serves all pictures; None: the embedded ones.
    options
        Options of running the embedded ones.
    """

    named: Upscaler | None = None
    options: RunOptions = field(default_factory=RunOptions)
    _opened: dict[tuple[int, int], Upscaler] = field(default_factory=dict)

    def scale_for(self, factor: float | None) -> int:
        """Scale of the network that serves a factor; None: the scale without any request."""
        if self.named is not None:
            return self.named.scale
        there = [scale for scale in SCALES if has_embedded_model(scale)]
        return network_scale(DEFAULT_FACTOR if factor is None else factor, there)

    def open(self, scale: int, bits: int = 8) -> Upscaler:
        """Return the model of a scale from ``scale_for``, for pictures of 8 or 16 bits.

        Raises
        ------
        UsageError
            It does not offer what the options ask for.
        FailedError
            Its runtime cannot be prepared.
        """
        if self.named is not None:
            return self.named
        if (scale, bits) not in self._opened:
            self._opened[scale, bits] = open_model(identify(None, scale), self.options, bits)
        return self._opened[scale, bits]

    @property
    def in_use(self) -> list[Upscaler]:
        """The models that were opened."""
        return [self.named] if self.named is not None else list(self._opened.values())


def find_models(model: str | None, size: SizeRequest, options: RunOptions) -> ScaledModels:
    """Find the models for a request; one that is named is opened.

    A checkpoint may hold several scales, or none in its tensors: a whole factor then names one.

    Raises
    ------
    UsageError
        There is no such model, or it does not offer what the options ask for.
    FailedError
        The runtime cannot be prepared.
    """
    if model is None:
        return ScaledModels(options=options)
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
