"""Graphs of a network whose bits follow the picture: one for each row of bits."""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from sr_quant_cli.imaging.convert import to_tensor
from sr_quant_cli.imaging.levels import Floats
from sr_quant_cli.quant.dynamic import ListedProvider
from sr_quant_cli.runtimes.base import PatchRuntime, Pixels, Runtime

P = TypeVar("P", np.uint8, np.float32)


class RowRuntime(PatchRuntime):
    """Runs every patch on the graph of its row, which is opened when a patch first needs it.

    Parameters
    ----------
    provider
        Chooses the row of a patch; None: a single graph serves all patches.
    open_row
        Opens the graph of a row; None opens the single graph.
    runtime
        Name of the runtime in which graphs are opened.
    """

    def __init__(
        self,
        provider: ListedProvider | None,
        open_row: Callable[[int | None], Runtime],
        runtime: str,
    ) -> None:
        self.runtime = runtime
        self._provider = provider
        self._open_row = open_row
        self._graphs: dict[int | None, Runtime] = {}
        self._bits: NDArray[np.float32] | None = None

    def batch(self, lr: Pixels) -> Pixels:
        """Uint8 ``[N, h, w, 3]`` -> uint8 ``[N, sh, sw, 3]``."""
        return self._run(lr, lambda graph, patch: graph(patch))

    def floats(self, lr: Floats) -> Floats:
        """Float32 ``[N, h, w, 3]``, 0..1 -> float32 ``[N, sh, sw, 3]``, not clipped."""
        return self._run(lr, lambda graph, patch: graph.floats(patch[None])[0])

    def _run(
        self, lr: NDArray[P], enlarge: Callable[[Runtime, NDArray[P]], NDArray[P]]
    ) -> NDArray[P]:
        rows = self._rows(lr)
        sr, bits = [], []
        for row, patch in zip(rows, lr, strict=True):
            graph = self._graph(row)
            sr.append(enlarge(graph, patch))
            bits.append(graph.latest_bits())
        if self._provider is None:
            chosen = [made for made in bits if made is not None]
            self._bits = np.concatenate(chosen) if chosen else None
        return np.stack(sr)

    def latest_bits(self) -> NDArray[np.float32] | None:
        """Bits of the latest patches, ``[N, L]``; None: fixed bits."""
        return self._bits

    def _rows(self, lr: Pixels | Floats) -> list[int | None]:
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
