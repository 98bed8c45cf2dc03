"""Networks whose bits follow the picture, on graphs: where there are rows, one for each."""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.quant.dynamic import ListedProvider
from sr_quant_cli.runtimes.base import PatchRuntime, Pixels, Runtime, RuntimeName


class RowRuntime(PatchRuntime):
    """Every patch on the graph of its row; a graph is opened when a patch first needs it.

    Parameters
    ----------
    provider
        Chooses the rows; None: there is one graph.
    open_row
        Opens the graph of a row, or the one of bits that are fixed or that it chooses (None).
    runtime
        That it opens them in.
    """

    def __init__(
        self,
        provider: ListedProvider | None,
        open_row: Callable[[int | None], Runtime],
        runtime: RuntimeName,
    ) -> None:
        self.runtime = runtime
        self._provider = provider
        self._open_row = open_row
        self._graphs: dict[int | None, Runtime] = {}
        self._bits: NDArray[np.float32] | None = None

    def batch(self, lr: Pixels) -> Pixels:
        """Uint8 ``[N, h, w, 3]`` -> uint8 ``[N, sh, sw, 3]``."""
        rows = self._rows(lr)
        sr, bits = [], []
        for row, patch in zip(rows, lr, strict=True):
            graph = self._graph(row)
            sr.append(graph(patch))
            bits.append(graph.latest_bits())
        if self._provider is None:
            chosen = [made for made in bits if made is not None]
            self._bits = np.concatenate(chosen) if chosen else None
        return np.stack(sr)

    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits of the latest patches, ``[N, L]``; None: they are fixed."""
        return self._bits

    def _rows(self, lr: Pixels) -> list[int | None]:
        if self._provider is None:
            return [None] * len(lr)
        with torch.inference_mode():
            self._provider.begin(to_tensor(lr, torch.device("cpu")))
            row = self._provider.row
            self._bits = self._provider.rows()[row].float().numpy()
        return list(row.tolist())

    def _graph(self, row: int | None) -> Runtime:
        if row not in self._graphs:
            self._graphs[row] = self._open_row(row)
        return self._graphs[row]
