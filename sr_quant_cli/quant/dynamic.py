"""Bit widths that follow the picture: bit providers, and quantizers of the chosen widths.

A bit provider is a module of a network. It looks at the pictures of a batch before the network
runs, then chooses a width for every sample at every dynamic input, in the order of computation. It
keeps its latest choices.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sr_quant_cli.quant.fake import fake_quantize, without_autocast
from sr_quant_cli.quant.grids import MIN_WIDTH, Grid, sym_narrow
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.quant.quantizers import Quantizer


@dataclass(frozen=True)
class Choice:
    """Chosen bit widths of one layer's input, one for each sample."""

    bits: Tensor
    """``[N]``, float32; with a gradient if the provider learns"""
    index: Tensor
    """``[N]``, int64: index of the candidate"""
    probabilities: Tensor | None = None
    """probabilities of the candidates, ``[N, K]``; None: the choice does not learn"""


class BitProvider(nn.Module):
    """Chooser of bit widths for every sample of a batch.

    Parameters
    ----------
    candidates
        Widths to choose from, ascending.

    Attributes
    ----------
    inputs
        Paths of the dynamic inputs, in the order of the network's modules; set by ``attach``.
    """

    inputs: tuple[str, ...] = ()

    def __init__(self, candidates: tuple[int, ...]) -> None:
        super().__init__()
        self.candidates = candidates
        self.choices: dict[str, Choice] = {}
        """Choices for the latest batch, by the paths of the dynamic inputs. The second use of an
        input has the key ``path#2``, and so on."""

    def begin(self, picture: Tensor) -> None:
        """Look at the LR batch ``[N, 3, h, w]``, 0..1, that the network is about to enlarge."""
        self.choices = {}
        with without_autocast(picture):
            self.look(picture.float())

    def choice(self, layer: str, x: Tensor) -> Choice:
        """Choose for a layer's input ``[N, C, H, W]``, and keep the choice."""
        with without_autocast(x):
            made = self.choose(layer, x)
        uses = len(self._uses(layer))
        self.choices[f"{layer}#{uses + 1}" if uses else layer] = made
        return made

    def latest(self, layer: str) -> Choice:
        """Choice at the latest use of a dynamic input."""
        return self.choices[self._uses(layer)[-1]]

    def chosen(self) -> Tensor:
        """Widths for the latest batch: ``[N, L]``, a column for each use of a dynamic input.

        Columns are in the order of ``inputs``, without inputs that the network's depth leaves out.
        """
        used = [name for layer in self.inputs for name in self._uses(layer)]
        return torch.stack([self.choices[name].bits.detach() for name in used], dim=1)

    def _uses(self, layer: str) -> list[str]:
        return [name for name in self.choices if name.partition("#")[0] == layer]

    def look(self, picture: Tensor) -> None:
        """Prepare what choices depend on besides the layer's input; nothing by default."""

    @abstractmethod
    def choose(self, layer: str, x: Tensor) -> Choice:
        """Choose for a layer's input ``[N, C, H, W]``."""

    def of_index(self, index: Tensor) -> Choice:
        """Choice of the candidates with the indices ``[N]``."""
        widths = torch.tensor(self.candidates, dtype=torch.float32, device=index.device)
        return Choice(widths[index], index)


class ListedProvider(BitProvider):
    """Chooser among a few rows of bits, by the picture alone, for all layers at once.

    A network at one row has fixed bits (``at_row``), and is lowered to integers as any other.

    Attributes
    ----------
    row
        Rows of the pictures in the current batch, int64 ``[N]``; set by ``look``.
    """

    row: Tensor

    @abstractmethod
    def rows(self) -> Tensor:
        """Table of bits, int64 ``[R, L]``: a column for each dynamic input, as in ``inputs``."""


class DynamicQuantizer(Quantizer):
    """Quantizer of an activation ``[N, C, H, W]`` with a bit width for each sample.

    ``provider`` is set by ``attach``; the quantizer does not own it.
    """

    layer: str
    provider: tuple[BitProvider]

    @abstractmethod
    def grid_at(self, bits: int) -> Grid:
        """Grid of one candidate, with a single range."""

    def symmetric_grids(self) -> tuple[Grid, ...]:
        """Grids of the candidates, if all are symmetric around zero; empty if they are not.

        Codes of the chosen bits then count steps, so that an integer kernel serves all candidates.
        """
        return ()

    @abstractmethod
    def grid_for(self, choice: Choice) -> Grid:
        """Grid with ranges ``[N, 1, 1, 1]``, one for each sample."""

    def grid(self, x: Tensor) -> Grid:
        """Grid of the widths chosen for ``x``."""
        return self.grid_for(self.provider[0].choice(self.layer, x))


class Scales(DynamicQuantizer, MaxScale):
    """A trainable bound ``alpha`` of both signs for every candidate width (CADyQ).

    While the choice learns, the output has the values of the chosen candidate and the gradients of
    the mixture ``sum_k p_k Q_k(x)``. Otherwise only the chosen candidate is computed.

    Examples
    --------
    >>> class Fixed(BitProvider):
    ...     def choose(self, layer, x):
    ...         return self.of_index(torch.tensor([0, 1]))
    >>> quantizer = Scales(8, (2, 3))
    >>> quantizer.alpha.data.copy_(torch.tensor([3.0, 6.0])).tolist()
    [3.0, 6.0]
    >>> quantizer.layer, quantizer.provider = "", (Fixed((2, 3)),)
    >>> x = torch.tensor([-9.0, 0.9, 1.6, 3.2]).expand(2, 1, 1, 4)
    >>> quantizer(x).squeeze().tolist()
    [[-3.0, 0.0, 3.0, 3.0], [-6.0, 0.0, 2.0, 4.0]]
    """

    def __init__(self, bits: int, candidates: tuple[int, ...]) -> None:
        super().__init__(bits, (len(candidates),))
        self.candidates = candidates

    def static_grid(self) -> None:
        """None: it depends on the choice."""

    def grid_at(self, bits: int) -> Grid:
        """Symmetric grid of a candidate."""
        return sym_narrow(self.alpha[self.candidates.index(bits)], bits)

    def symmetric_grids(self) -> tuple[Grid, ...]:
        """The grid of every candidate."""
        return tuple(map(self.grid_at, self.candidates))

    def grid_for(self, choice: Choice) -> Grid:
        """Symmetric grid of each sample's candidate."""
        alpha = self.alpha.clamp_min(MIN_WIDTH)[choice.index].view(-1, 1, 1, 1)
        step = alpha / (2 ** (choice.bits - 1) - 1).view(-1, 1, 1, 1)
        last = 2 ** (max(self.candidates) - 1) - 1
        grid = Grid(step, torch.zeros_like(step), -alpha, alpha, -last, last, self.bits)
        return self.reach(grid)

    def quantized(self, x: Tensor) -> Tensor:
        """Quantize to the chosen grids, with gradients of the mixture while the choice learns."""
        if self.mode != "quantize":
            return super().quantized(x)
        choice = self.provider[0].choice(self.layer, x)
        if choice.probabilities is None:
            return fake_quantize(x, self.grid_for(choice), self.rule)
        with torch.no_grad():
            chosen = fake_quantize(x, self.grid_for(choice), self.rule)
        mixture = torch.zeros_like(chosen)
        for bits, alpha, p in zip(
            self.candidates, self.alpha, choice.probabilities.unbind(1), strict=True
        ):
            candidate = fake_quantize(x, self.reach(sym_narrow(alpha, bits)), self.rule)
            mixture = mixture + p.view(-1, 1, 1, 1) * candidate
        return chosen + (mixture - mixture.detach())


def attach(network: nn.Module, provider: BitProvider) -> None:
    """Connect a quantized network and its dynamic quantizers to a bit provider.

    Raises
    ------
    ValueError
        The network has no dynamic quantizer.
    """
    dynamic = dynamic_quantizers(network)
    if not dynamic:
        raise ValueError("the placement quantizes no feature map whose bits could be chosen")
    for path, quantizer in dynamic.items():
        quantizer.layer, quantizer.provider = path, (provider,)
    provider.inputs = tuple(dynamic)
    network.bit_provider = provider
    network.register_forward_pre_hook(_begin)


def dynamic_quantizers(network: nn.Module) -> dict[str, DynamicQuantizer]:
    """Dynamic quantizers of a network by the paths of their sites, in the order of its modules."""
    return {
        name.rpartition(".")[0]: module
        for name, module in network.named_modules()
        if isinstance(module, DynamicQuantizer)
    }


def _begin(network: nn.Module, inputs: tuple[Any, ...]) -> None:
    provider = network.bit_provider
    if isinstance(provider, BitProvider):  # otherwise the network was fixed at a row
        provider.begin(inputs[0])
