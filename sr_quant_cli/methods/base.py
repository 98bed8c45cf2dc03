"""Interface of a quantization method: quantizers, placement, phases of training."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import ClassVar, Literal

from torch import Tensor, nn

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.layers import QuantConv2d, QuantLinear
from sr_quant_cli.quant.plan import Bits, MethodConfig
from sr_quant_cli.quant.quantizers import Quantizer, observe, quantizers
from sr_quant_cli.quant.sites import Placement, Site

Group = Literal["weights", "bounds", "weight_bounds", "auxiliary"]
"""Weights of the network; ranges of activations; ranges of weights; gates and selectors."""


FeatureDistance = Callable[[Tensor, Tensor], Tensor]
"""Distance of a feature of the student from that of the teacher."""


class Method(ABC):
    """A published method, composed of quantizers.

    It makes a quantizer for every operand that a placement names, and controls what happens around
    a training step. It never edits a network: ``quantize_network`` inserts its quantizers.
    """

    trains: ClassVar[bool]
    """True if the method trains"""
    dynamic: ClassVar[bool] = False
    """True if ranges depend on the picture, or the tile, at run time"""
    uniform: ClassVar[bool] = True
    """True if the levels of an operand have one step, as integer kernels need"""
    chooses_bits: ClassVar[bool] = False
    """True if bit widths depend on it"""
    takes_levels: ClassVar[bool] = True
    """True if widths may be numbers of levels: its grids come from ``quant/grids.py``"""
    side_losses: ClassVar[tuple[str, ...]] = ()
    """regularizers whose gradients ``combine`` adds to that of all other losses"""
    starts_from: ClassVar[str | None] = None
    """method of the quantized model that it starts from; None for a full-precision one"""

    def __init__(self, config: MethodConfig) -> None:
        self.config = config

    def cautions(self, bits: Bits) -> list[str]:
        """List warnings for these bits, one line each."""
        return []

    def check(self, bits: Bits) -> None:
        """Refuse bits that the method does not support.

        Raises
        ------
        ValueError
            The message says what is allowed.
        """

    @abstractmethod
    def paper_placement(self) -> Placement:
        """Placement of the paper or, for variant ``code``, of the released code."""

    @abstractmethod
    def weight_quantizer(
        self, site: Site, weight: Tensor, bits: int, *, per_channel: bool = False
    ) -> Quantizer:
        """Make the quantizer of a weight ``[Cout, Cin, kh, kw]`` or ``[out, in]``.

        ``per_channel`` asks for a grid that integer kernels take: one range for each output
        channel, levels at multiples of the step, and zero as code 0.
        """

    @abstractmethod
    def input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Make the quantizer of an activation: a layer's input, or the tensor of the site."""

    def low_input_quantizer(self, site: Site, bits: int) -> Quantizer:
        """Make the quantizer of an activation with the bits asked for (precision ``low``)."""
        return self.input_quantizer(site, bits)

    def attach(self, network: Network) -> None:
        """Attach what the quantizers share, once all of them are in place."""

    def calibrate(self, network: Network, batches: Iterable[Tensor]) -> None:
        """Find ranges on LR batches ``[N, 3, h, w]`` (0..1) with all operands in float.

        Weights are observed once. Quantizers without a range of their own stay unchanged.
        """
        observe(network, batches)

    def inherit(self, network: Network, before: Network, batches: Iterable[Tensor]) -> None:
        """Copy ranges from the model that the method starts from, instead of a calibration.

        Parameters
        ----------
        before
            Same network, quantized by the method ``starts_from``.
        batches
            LR pictures as for ``calibrate``.
        """
        raise NotImplementedError(f"{self.config.name} starts from a full-precision model")

    def parameter_groups(self, network: Network) -> dict[Group, list[nn.Parameter]]:
        """Sort the parameters into groups, each with a learning rate of its own in the recipe.

        Parameters of a weight's quantizer are ``weight_bounds``, those of other quantizers
        ``bounds``. What ``Quantizer.auxiliary`` names and a bit provider are ``auxiliary``, all
        others ``weights``.
        """
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
        """Factor of a group's learning rate at a step; 0 in a phase without training it."""
        return 1.0

    def before_step(self, network: Network, step: int, iters: int) -> None:
        """Set the phase for step ``step`` (from 0) of ``iters``, as a function of these only."""

    def after_step(self, network: Network) -> None:
        """Keep ranges valid after an update."""
        for quantizer in quantizers(network):
            quantizer.clamp_range()

    def pixel_factor(self, output: Tensor) -> float:
        """Compute a factor of the pixel loss on an output ``[N, 3, H, W]``, beside the recipe's."""
        return 1.0

    def feature_distance(self, network: Network, default: FeatureDistance) -> FeatureDistance:
        """Distance of features; ``default`` is the recipe's."""
        return default

    def feature_factor(self, network: Network, path: str) -> Tensor | float:
        """Compute a factor of the feature loss at a submodule, beside the recipe's."""
        return 1.0

    def feature_paths(self, network: Network) -> tuple[str, ...]:
        """Submodules whose outputs are compared in place of the recipe's; empty: the recipe's."""
        return ()

    def regularizers(self, network: Network) -> dict[str, Tensor]:
        """Compute additional losses of the current step, by name."""
        return {}

    def combine(self, gradient: Tensor, side: Tensor) -> Tensor:
        """Combine the gradient of a parameter with that of the side losses, of the same shape."""
        return gradient + side
