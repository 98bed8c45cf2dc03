"""Quantization of a network in the header of its model file."""

from dataclasses import asdict
from typing import Any, Self

from pydantic import SerializerFunctionWrapHandler, field_serializer, model_serializer

from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.methods.base import Method
from sr_quant_cli.networks.base import Network
from sr_quant_cli.plugins import Origin
from sr_quant_cli.quant.cost import FLOAT_BITS
from sr_quant_cli.quant.plan import Bits, Quantization, SiteBits, link_sites, plan_sites
from sr_quant_cli.quant.sites import KINDS, Operands, Site, has_weight, no_such_site
from sr_quant_cli.quant.widths import Width, plain
from sr_quant_cli.strict import Strict


class SiteHeader(Strict):
    """Precision of one site, in a model file."""

    input: Width | None = None
    """width of the input, or of both operands of a product; None: float"""
    weight: Width | None = None
    """width of the weight; None: float, or the site has none"""
    integer: bool = False
    """the grids are those for integer kernels"""
    dynamic: bool = False
    """the bits of the input follow the picture"""

    @model_serializer(mode="wrap")
    def _without_defaults(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value}


class QuantizationHeader(Strict):
    """Quantization of a network, in a model file."""

    method: dict[str, Any]
    w: Width
    a: Width
    placement: dict[str, Operands]
    """placement that ``sites`` resulted from, by kind and by path"""
    sites: dict[str, SiteHeader] | None = None
    """every site, by its path; None: as the placement says"""

    @field_serializer("placement")
    def _placement_without_defaults(
        self, placement: dict[str, Operands]
    ) -> dict[str, dict[str, Any]]:
        float_ = asdict(Operands())
        return {
            name: {
                key: plain(value) for key, value in asdict(operands).items() if value != float_[key]
            }
            for name, operands in placement.items()
        }

    @classmethod
    def of(cls, quantization: Quantization) -> Self:
        """Header of a network's quantization."""
        return cls(
            method=quantization.method.model_dump(),
            w=quantization.bits.w,
            a=quantization.bits.a,
            placement=quantization.placement,
            sites={
                entry.site.path: SiteHeader(
                    input=_stated(entry.input_bits),
                    weight=_stated(entry.weight_bits),
                    integer=entry.integer,
                    dynamic=entry.dynamic,
                )
                for entry in quantization.sites
            },
        )

    def resolve(
        self, network: Network, origin: Origin | None = None
    ) -> tuple[Method, Quantization]:
        """Method and plan for a float network.

        Parameters
        ----------
        origin
            Plugin that the method comes from; None: it is srq's own.

        Raises
        ------
        ValueError
            A site is unknown or missing, or has an operand that does not exist or has wrong bits.
        """
        name = str(self.method.get("name"))
        config = method_config_class(name, origin).model_validate(self.method)
        method, bits, sites = build_method(config), Bits(self.w, self.a), network.sites()
        paths = [site.path for site in sites]
        for name in self.placement:
            if name not in KINDS and name not in paths:
                raise ValueError(f"placement.{name[:80]}: {no_such_site(name, sites)}")
        if self.sites is None:
            plan = plan_sites(sites, self.placement, bits, dynamic=method.chooses_bits)
        else:
            for name in self.sites:
                if name not in paths:
                    raise ValueError(f"sites.{name[:80]}: {no_such_site(name, sites)}")
            for path in paths:
                if path not in self.sites:
                    raise ValueError(f"sites.{path}: is missing")
            plan = link_sites(self._entry(site, method) for site in sites)
        if not any(entry.quantized for entry in plan):
            raise ValueError("no site is quantized")
        return method, Quantization(config, self.placement, bits, tuple(plan))

    def _entry(self, site: Site, method: Method) -> SiteBits:
        assert self.sites is not None
        said, weight = self.sites[site.path], has_weight(site.kind)
        if said.weight is not None and not weight:
            raise ValueError(f"sites.{site.path}.weight: this site has no weight")
        if said.dynamic and not (method.chooses_bits and said.input == self.a):
            raise ValueError(
                f"sites.{site.path}.dynamic: needs a method that chooses bits, and input = a"
            )
        return SiteBits(
            site,
            said.input or FLOAT_BITS,
            (said.weight or FLOAT_BITS) if weight else 0,
            said.integer,
            said.dynamic,
        )


def _stated(bits: int) -> int | None:
    """Width that a header states; None for a float or missing operand."""
    return None if bits in (0, FLOAT_BITS) else bits
