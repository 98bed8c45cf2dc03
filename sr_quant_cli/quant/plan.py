"""What is quantized in a network, by which method, and the bits that result."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

from sr_quant_cli.quant.sites import TENSORS, Operands, Placement, Precision, Site
from sr_quant_cli.strict import Strict

Variant = Literal["corrected", "paper", "code"]


class MethodConfig(Strict):
    """``[method]``: a method's own hyper-parameters; each method derives its own."""

    name: str
    """method"""
    variant: Variant = "corrected"
    """code: as released, defects included; paper: as written; corrected: defects removed"""

    @classmethod
    def variants(cls) -> tuple[Variant, ...]:
        """Variants that the method has."""
        found: tuple[Variant, ...] = get_args(cls.model_fields["variant"].annotation)
        return found


@dataclass(frozen=True)
class Bits:
    """Bit-widths asked for: of weights and of activations where precision is ``low``."""

    w: int
    a: int

    def __str__(self) -> str:
        return f"w{self.w}a{self.a}"

    def weight(self, precision: Precision) -> int:
        """Bits of a weight; 32: float."""
        return {"fp32": 32, "int8": 8, "low": self.w}[precision]

    def input(self, precision: Precision) -> int:
        """Bits of an activation; 32: float."""
        return {"fp32": 32, "int8": 8, "low": self.a}[precision]


@dataclass(frozen=True)
class Quantization:
    """How a network was quantized: enough to do it again."""

    method: MethodConfig
    placement: Placement
    bits: Bits


@dataclass(frozen=True)
class SiteBits:
    """What became of a site: bits of its operands, 32 where float, 0 where there is none."""

    site: Site
    input_bits: int
    weight_bits: int
    given: bool
    """its input comes with these bits from the tensor site in front"""


def plan_sites(sites: Iterable[Site], placement: Placement, bits: Bits) -> list[SiteBits]:
    """Bits of the operands at the sites of a network under a placement."""
    plan = []
    for site in sites:
        operands = placement.get(site.kind, Operands())
        no_weight = site.kind in TENSORS or site.kind == "matmul"
        weight_bits = 0 if no_weight else bits.weight(operands.weight)
        input_bits = bits.input(operands.input)
        before = placement.get(site.quantized_by) if site.quantized_by else None
        given = before is not None and bits.input(before.input) == input_bits
        plan.append(SiteBits(site, input_bits, weight_bits, given))
    return plan
