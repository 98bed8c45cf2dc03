"""CABM: content-aware bit mapping.

A table replaces CADyQ's selectors. It maps the edge score of a patch to the bits of every layer.

    e = mean |Laplacian| of the grey patch, 0..255
    bits of layer l = T[i, l],    i the interval of e
    x_hat = Q_bits(x),            on the scales of CADyQ

It starts from a trained CADyQ, which runs on training patches. Their scores are cut into intervals
with equally many patches. In each interval every layer gets the bits that CADyQ chose most often,
or the fewer bits if counts are equal. The network is then trained further with this table, by the
losses of CADyQ without the one on bits. At run time no selector is left: a patch costs an edge
detector and a look-up, and all bits are known before the network runs.

It has no variants, as its released code was not examined.

The paper does not say how the row of an interval is formed or how many intervals there are. The
most frequent bits and 20 intervals are srq's choice.

References
----------
.. [1] S. Tian, M. Lu, J. Liu, Y. Guo, Y. Chen, S. Zhang, "CABM: Content-Aware Bit Mapping for
       Single Image Super-Resolution Network with Large Input", CVPR 2023.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from sr_quant_cli.methods.content_aware import ContentAware, ContentAwareConfig
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import Choice, ListedProvider, attach, dynamic_quantizers
from sr_quant_cli.quant.max_scale import inherit_scales
from sr_quant_cli.quant.pictures import edge_score


class CABMConfig(ContentAwareConfig):
    """CABM [1]_."""

    name: Literal["cabm"] = "cabm"
    """method"""
    variant: Literal["corrected"] = "corrected"
    """there is nothing that variants could differ in"""
    intervals: Annotated[int, Field(ge=1)] = 20
    """intervals of the edge score, each with a row of the table"""


class EdgeTable(ListedProvider):
    """Table of the bits of all layers by the edge score of a patch [1]_.

    Attributes
    ----------
    edges
        Scores between the intervals, ascending, ``[R - 1]``.
    table
        Index of the candidate for every layer in every interval, int64 ``[R, L]``.
    """

    edges: Tensor
    table: Tensor

    def __init__(self, candidates: tuple[int, ...], layers: list[str], intervals: int) -> None:
        super().__init__(candidates)
        self._column = {layer: index for index, layer in enumerate(layers)}
        self.register_buffer("edges", torch.zeros(intervals - 1))
        most = len(candidates) - 1
        self.register_buffer("table", torch.full((intervals, len(layers)), most))

    def look(self, picture: Tensor) -> None:
        """Look up the row of every patch."""
        self.row = torch.bucketize(edge_score(picture), self.edges)

    def choose(self, layer: str, x: Tensor) -> Choice:
        """Choose by the table."""
        return self.of_index(self.table[self.row, self._column[layer]])

    def rows(self) -> Tensor:
        """Rows of the table, as bits."""
        return torch.tensor(self.candidates, device=self.table.device)[self.table]

    @torch.no_grad()
    def fill(self, scores: Tensor, chosen: Tensor) -> None:
        """Fill the table from scores ``[P]`` and choices ``[P, L]``, indices of candidates.

        With equal scores an interval may have no patch; it keeps the most bits.
        """
        count = len(self.table)
        cuts = torch.linspace(0, 1, count + 1, device=scores.device)[1:-1]
        self.edges.copy_(torch.quantile(scores, cuts))
        row = torch.bucketize(scores, self.edges)
        for index in range(count):
            here = chosen[row == index]
            if len(here):
                counts = torch.stack([(here == k).sum(0) for k in range(len(self.candidates))])
                self.table[index] = counts.argmax(0)


class CABM(ContentAware):
    """Bits looked up for every patch [1]_."""

    starts_from = "cadyq"
    config: CABMConfig

    def attach(self, network: Network) -> None:
        """Attach the table."""
        layers = list(dynamic_quantizers(network))
        attach(network, EdgeTable(tuple(self.config.candidates), layers, self.config.intervals))

    def inherit(self, network: Network, before: Network, batches: Iterable[Tensor]) -> None:
        """Copy the scales, and fill the table with the choices of CADyQ."""
        table, chooser = network.bit_provider, before.bit_provider
        assert isinstance(table, EdgeTable)
        assert chooser is not None
        if chooser.candidates != table.candidates:
            raise ValueError(
                f"it chooses among {list(chooser.candidates)} bits, the table among "
                f"{list(table.candidates)}"
            )
        inherit_scales(network, before)
        scores, chosen = [], []
        for batch in batches:
            with torch.no_grad():
                before.eval()(batch)
            scores.append(edge_score(batch))
            # The first use of a layer that is used several times stands for all.
            made = [chooser.choices[layer].index for layer in dynamic_quantizers(network)]
            chosen.append(torch.stack(made, 1))
        table.fill(torch.cat(scores), torch.cat(chosen))
