"""Networks of fixed bits, made of one row of those that follow the picture."""

from copy import deepcopy

import torch

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.dynamic import ListedProvider, dynamic_quantizers
from sr_quant_cli.quant.frozen import FrozenInput


@torch.no_grad()
def at_row(network: Network, row: int) -> Network:
    """Copy of a network whose bits are those of one row, whatever the picture.

    Raises
    ------
    ValueError
        Its bits are chosen layer by layer, are fixed already, or there is no such row.
    """
    provider = network.bit_provider
    if not isinstance(provider, ListedProvider):
        raise ValueError("its bits are not those of a row of a table")
    rows = provider.rows()
    if not 0 <= row < len(rows):
        raise ValueError(f"rows are 0 to {len(rows) - 1}")
    fixed = deepcopy(network)
    fixed.bit_provider = None
    quantizers = dynamic_quantizers(fixed)
    for (path, quantizer), bits in zip(quantizers.items(), rows[row].tolist(), strict=True):
        grid = quantizer.grid_at(bits)
        fixed.set_submodule(f"{path}.input_quantizer", FrozenInput.of(grid))
    return fixed
