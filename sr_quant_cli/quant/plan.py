"""The plan of a quantized network: the method, and the bits of every site."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sr_quant_cli.quant.cost import FLOAT_BITS
from sr_quant_cli.quant.sites import (
    KINDS,
    TENSORS,
    Placement,
    Precision,
    Site,
    has_weight,
    operands_at,
)
from sr_quant_cli.strict import Strict

Variant = Literal["corrected", "paper", "code"]


class MethodConfig(Strict):
    """``[method]``: hyper-parameters; each method derives its own table."""

    name: str
    """method"""
    variant: Variant = "corrected"
    """code: as released, defects included; paper: as written; corrected: defects removed"""

    @classmethod
    def variants(cls) -> tuple[Variant, ...]:
        """Variants of the method."""
        found: tuple[Variant, ...] = get_args(cls.model_fields["variant"].annotation)
        return found


@dataclass(frozen=True)
class Bits:
    """Default widths of weights and activations: those of operands with precision ``low``.

    >>> from sr_quant_cli.quant.widths import NarrowBits
    >>> str(Bits(4, 4)), str(Bits(NarrowBits(29), 6))
    ('w4a4', 'w29La6')
    """

    w: int
    a: int

    def __str__(self) -> str:
        return f"w{self.w}a{self.a}"

    def weight(self, precision: Precision) -> int:
        """Bits of a weight; 32: float."""
        return _bits(precision, self.w)

    def input(self, precision: Precision) -> int:
        """Bits of an activation; 32: float."""
        return _bits(precision, self.a)


def _bits(precision: Precision, low: int) -> int:
    if isinstance(precision, int):
        return precision
    return {"fp32": FLOAT_BITS, "int8": 8, "low": low}[precision]


@dataclass(frozen=True)
class SiteBits:
    """Precision of one site, which its quantizers, its costs and its entry in a file follow."""

    site: Site
    input_bits: int
    """bits of the input, or of both operands of a product; 32: float"""
    weight_bits: int
    """bits of the weight; 32: float, 0: the site has none"""
    integer: bool = False
    """grids for integer kernels, as in ``Operands``"""
    dynamic: bool = False
    """the method may choose the bits of the input for each picture"""
    given: bool = False
    """a tensor site in front has put the input on its grid already"""
    source: str | None = None
    """path of the tensor site whose quantizer the input has passed; None: it has passed none"""

    @property
    def quantized(self) -> bool:
        """True if an operand of the site is quantized."""
        return self.input_bits != FLOAT_BITS or self.weight_bits not in (0, FLOAT_BITS)


@dataclass(frozen=True)
class Quantization:
    """Quantization of a network, complete enough to repeat it."""

    method: MethodConfig
    placement: Placement
    """placement that ``sites`` resulted from"""
    bits: Bits
    sites: tuple[SiteBits, ...]
    """precision of every site, in the order of ``Network.sites``"""

    def exceptions(self) -> list[SiteBits]:
        """Sites whose bits differ from those of their kind."""
        kinds: Placement = {
            name: operands for name, operands in self.placement.items() if name in KINDS
        }
        sites = [entry.site for entry in self.sites]
        usual = plan_sites(sites, kinds, self.bits, dynamic=any(e.dynamic for e in self.sites))
        return [
            entry
            for entry, other in zip(self.sites, usual, strict=True)
            if (entry.input_bits, entry.weight_bits) != (other.input_bits, other.weight_bits)
            or entry.dynamic != other.dynamic
        ]


def plan_sites(
    sites: Iterable[Site], placement: Placement, bits: Bits, *, dynamic: bool = False
) -> list[SiteBits]:
    """Resolve a placement to the bits of every site.

    Parameters
    ----------
    sites
        All sites of a network, in the order in which they are computed.
    dynamic
        The method chooses the bits of inputs that are ``low``.

    Examples
    --------
    >>> from sr_quant_cli.quant.sites import Operands
    >>> sites = [Site("block_in", "block_in", 8), Site("conv", "block", 8, quantized_by="block_in")]
    >>> low = {"block_in": Operands("low"), "block": Operands("low", "low")}
    >>> [(s.input_bits, s.weight_bits, s.given) for s in plan_sites(sites, low, Bits(4, 3))]
    [(3, 0, False), (3, 4, True)]
    >>> conv = plan_sites(sites, low | {"conv": Operands(6, 5)}, Bits(4, 3))[1]
    >>> conv.input_bits, conv.weight_bits, conv.given, conv.source
    (6, 5, False, 'block_in')
    """
    plan = []
    for site in sites:
        operands = operands_at(site, placement)
        weight = bits.weight(operands.weight) if has_weight(site.kind) else 0
        chosen = dynamic and operands.input == "low"
        plan.append(SiteBits(site, bits.input(operands.input), weight, operands.integer, chosen))
    return link_sites(plan)


def link_sites(plan: Iterable[SiteBits]) -> list[SiteBits]:
    """Find which inputs a tensor site in front has quantized, and to the same bits."""
    tensors: dict[str, SiteBits] = {}
    linked = []
    for entry in plan:
        kind, before = entry.site.kind, None
        if entry.site.quantized_by is not None:
            before = tensors.get(entry.site.quantized_by)
        if before is not None:
            given = entry.input_bits == before.input_bits != FLOAT_BITS
            # Bits that are fixed here and chosen there are not the same bits.
            given = given and (entry.dynamic or not before.dynamic)
            entry = replace(
                entry,
                given=given,
                dynamic=entry.dynamic and (before.dynamic or not given),
                source=_quantized_at(before),
            )
        if kind in TENSORS:
            tensors[kind] = tensors[entry.site.path] = entry
        linked.append(entry)
    return linked


def _quantized_at(entry: SiteBits) -> str | None:
    """Path of the site that has put the output of a tensor site on a grid."""
    own = entry.input_bits != FLOAT_BITS and not entry.given
    return entry.site.path if own else entry.source
