"""Networks with fixed bits: one row of the table that bits are chosen from."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import ListedProvider, dynamic_quantizers
from sr_quant_cli.quant.frozen import FrozenInput
from sr_quant_cli.quant.plan import SiteBits


@torch.no_grad()
def at_row(network: Network, row: int) -> Network:
    """Copy of a network with the bits of one row for every picture.

    Raises
    ------
    ValueError
        The bits are chosen layer by layer, or are fixed already, or there is no such row.
    """
    provider = network.bit_provider
    if not isinstance(provider, ListedProvider):
        raise ValueError("its bits are not chosen from a table of rows")
    rows = provider.rows()
    if not 0 <= row < len(rows):
        raise ValueError(f"rows are 0 to {len(rows) - 1}")
    fixed = deepcopy(network)
    fixed.bit_provider = None
    quantizers = dynamic_quantizers(fixed)
    widths: dict[str | None, int] = dict(zip(quantizers, rows[row].tolist(), strict=True))
    for path, quantizer in quantizers.items():
        frozen = FrozenInput.of(quantizer.grid_at(widths[path]))
        fixed.set_submodule(f"{path}.input_quantizer", frozen)
    if fixed.quantization is not None:
        plan = tuple(_at_bits(entry, widths) for entry in fixed.quantization.sites)
        fixed.quantization = replace(fixed.quantization, sites=plan)
    return fixed


def _at_bits(entry: SiteBits, widths: Mapping[str | None, int]) -> SiteBits:
    """Site with the fixed bits of its dynamic input, where it has one."""
    path = entry.source if entry.given else entry.site.path
    if path not in widths:
        return entry
    return replace(entry, input_bits=widths[path], dynamic=False)
