"""``[sites]`` of a recipe: where a network is quantized, and to how many bits."""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

from pydantic import (
    ConfigDict,
    Field,
    PlainValidator,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from sr_quant_cli.errors import UsageError
from sr_quant_cli.quant.sites import (
    KINDS,
    PRECISIONS,
    Operands,
    Placement,
    Precision,
    Site,
    check_precision,
    has_weight,
    no_such_site,
)
from sr_quant_cli.quant.widths import WEIGHT_WIDTHS, NarrowBits, plain
from sr_quant_cli.strict import Strict

PlacementName = Literal["paper", "full"]


_OPERANDS = ("input", "weight")


def _operands(value: Any) -> Precision | dict[str, Precision]:
    """Read a precision for all operands of a site, or a table of precisions by operand."""
    try:
        if not isinstance(value, dict):
            return check_precision(value)
        if not value.keys() - set(_OPERANDS):
            return {name: check_precision(each) for name, each in value.items()}
    except ValueError:
        pass
    nested = isinstance(value, dict) and any(isinstance(each, dict) for each in value.values())
    raise ValueError(
        f"must be one of {PRECISIONS}, or a table with one of these for {' and '.join(_OPERANDS)}"
        + ('; paths of sites are quoted, as sites."body.3.conv2"' if nested else "")
    )


SiteOperands = Annotated[Precision | dict[str, Precision], PlainValidator(_operands)]


class SiteChanges(Strict):
    """Operands by kinds of sites, or paths of single sites, that change a placement."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, SiteOperands] = Field(init=False)

    @model_validator(mode="after")
    def _weights_exist(self) -> Self:
        for kind in KINDS:
            operands = self.changes().get(kind)
            if isinstance(operands, dict) and "weight" in operands and not has_weight(kind):
                raise ValueError(f"{kind}.weight: {_NO_WEIGHT}")
        return self

    @model_serializer(mode="wrap")
    def _plain(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Pydantic does not apply serializers to keys of this kind.
        changes = {
            name: {operand: plain(each) for operand, each in operands.items()}
            if isinstance(operands, dict)
            else plain(operands)
            for name, operands in self.changes().items()
        }
        return {**serialize(self), **changes}

    def changes(self) -> dict[str, Precision | dict[str, Precision]]:
        """Changes to the placement, by kind or path of a site."""
        return self.__pydantic_extra__

    def change(self, placement: Placement, sites: Sequence[Site]) -> Placement:
        """Apply the changes to a placement.

        Parameters
        ----------
        sites
            All sites of the network.

        Raises
        ------
        UsageError
            The network has no such site, the site has no weight, or its weight cannot have as many
            levels.

        Examples
        --------
        >>> sites = [Site("up", "upsampler", 8), *(Site(f"body.{i}", "block", 8) for i in (0, 1))]
        >>> section = SiteChanges.model_validate(
        ...     {"body.1": {"input": 6}, "upsampler": "int8", "block": {"weight": 5}}
        ... )
        >>> changed = section.change({"block": Operands("low", "low")}, sites)
        >>> for name, operands in changed.items():
        ...     print(name, operands.input, operands.weight)
        block low 5
        upsampler int8 int8
        body.1 6 5
        """
        kinds = {site.path: site.kind for site in sites}
        kinds |= {site.kind: site.kind for site in sites}
        changed = dict(placement)
        for name in sorted(self.changes(), key=lambda name: name not in KINDS):
            if name not in kinds:
                raise UsageError(f"sites.{quoted(name)}: {no_such_site(name, sites)}")
            operands, weighted = self.changes()[name], has_weight(kinds[name])
            if not isinstance(operands, dict):
                operands = dict.fromkeys(_OPERANDS if weighted else ("input",), operands)
            elif "weight" in operands and not weighted:
                raise UsageError(f"sites.{quoted(name)}.weight: {_NO_WEIGHT}")
            before = changed.get(kinds[name], Operands())
            weight = operands.get("weight", before.weight)
            if isinstance(weight, NarrowBits) and weight.levels % 2 == 0:
                raise UsageError(f"sites.{quoted(name)}.weight: must be {WEIGHT_WIDTHS}")
            changed[name] = replace(
                before, input=operands.get("input", before.input), weight=weight
            )
        return changed


class SitesSection(SiteChanges):
    """``[sites]``: where to quantize, and to how many bits.

    All keys but ``placement`` are kinds of sites, or paths of single sites.
    """

    placement: PlacementName = "paper"
    """paper: the sites of the method's paper; full: every convolution, with 8 bits at both ends of
    the network. The other fields change one kind of site each, or a single site"""


_NO_WEIGHT = "sites of this kind have an input alone"


def quoted(key: str) -> str:
    """Quote a part of a TOML key if it needs quotes, as paths do.

    >>> print(quoted("upsampler"), quoted("body.3.conv2"))
    upsampler "body.3.conv2"
    """
    return key if re.fullmatch(r"[\w-]+", key) else f'"{key}"'
