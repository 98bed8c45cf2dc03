"""What every quantization method states: quantizers, places, and what changes while it trains."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer, observe, quantizers
from sr_quant_cli.quant.sites import Placement, Site

Group = Literal["weights", "bounds", "weight_bounds", "auxiliary"]
"""Weights of the network; ranges of activations; ranges of weights; gates and selectors."""


class Method(ABC):
    """A published method, composed of quantizers.

    It makes a quantizer for every operand that a placement gives to it, and says what happens
    around a training step. It never edits a network: ``quantize_network`` puts its quantizers in.
    """

    trains: ClassVar[bool]
    """whether it has training stages"""
    dynamic: ClassVar[bool] = False
    """whether ranges follow from the picture at run time, and so from the tile it is cut into"""
    chooses_bits: ClassVar[bool] = False
    """whether bits do"""
    starts_from: ClassVar[str | None] = None
    """method that quantized the model which it starts from; None: a full-precision model"""

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    def cautions(self, bits: Bits) -> list[str]:
        """What one should know before quantizing to these bits, a line each."""
        return []

    def check(self, bits: Bits) -> None:
        """Refuse bits that the method cannot have.

        Raises
        ------
        ValueError
            With what is allowed.
        """

    @abstractmethod
    def paper_placement(self) -> Placement:
        """Where the paper (or, for variant ``code``, the released code) quantizes."""

    @abstractmethod
    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Quantizer of a weight ``[Cout, Cin, kh, kw]`` or ``[out, in]``.

        ``per_channel`` asks for what integer kernels take: a range of its own for each output
        channel, with an integer multiple of the step for every level, and zero as code 0.
        """

    @abstractmethod
    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Quantizer of an activation: a layer's input, or the tensor of the site."""

    def low_input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Quantizer of an activation that the placement gives the bits asked for."""
        return self.input_quantizer(site, bits)

    def attach(self, network: Network) -> None:
        """Give a network what its quantizers share, once all of them are in their places."""

    def calibrate(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Find ranges from LR batches ``[N, 3, h, w]`` (0..1) with all operands in float.

        Weights are observed once. Nothing changes for quantizers without a range of their own.
        """
        observe(network, batches)

    def inherit(self, network: Network, before: Network, batches: Iterable[Tensor]) -> None:
        """Take what the model that it starts from has found, in the place of a calibration.

        Parameters
        ----------
        before
            The same network, quantized by the method ``starts_from``.
        batches
            LR pictures as for ``calibrate``.
        """
        raise NotImplementedError(f"{self.config.name} starts from a full-precision model")

    def parameter_groups(self, network: Network) -> dict[Group, list[nn.Parameter]]:
        """Parameters to train; each group has a learning rate of its own in the recipe."""
        groups: dict[Group, list[nn.Parameter]] = {
            "weights": [],
            "bounds": [],
            "weight_bounds": [],
            "auxiliary": [],
        }
        stated: dict[int, Group] = {}

        def state(parameters: Iterable[nn.Parameter], group: Group) -> None:
            stated.update(dict.fromkeys(map(id, parameters), group))

        for quantizer in quantizers(network):
            state(quantizer.parameters(), "bounds")
        for layer in network.modules():
            if isinstance(layer, QuantConv2d | QuantLinear):
                state(layer.weight_quantizer.parameters(), "weight_bounds")
        for quantizer in quantizers(network):
            state(quantizer.auxiliary(), "auxiliary")
        if network.bit_provider is not None:
            state(network.bit_provider.parameters(), "auxiliary")
        for parameter in network.parameters():
            groups[stated.get(id(parameter), "weights")].append(parameter)
        return {group: parameters for group, parameters in groups.items() if parameters}

    def rate_factor(self, group: Group, step: int, iters: int) -> float:
        """Factor on a group's learning rate at a step; 0: a phase without it."""
        return 1.0

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """Set the phase of step ``step`` (from 0) of ``iters``; a function of these alone."""

    def after_step(self, network: Network) -> None:
        """Keep ranges valid after an update."""
        for quantizer in quantizers(network):
            quantizer.keep_valid()

    def regularizers(self, network: Network) -> dict[str, Tensor]:
        """Further losses of the step that was just computed, by name."""
        return {}
