"""Static ranges instead of ranges that follow from the picture at run time.

Integer kernels need ranges in advance. A dynamic range is replaced by its average on calibration
pictures: the mean of the bounds over samples for each channel, and the widest of these for the
tensor. A range whose levels are not uniform gets uniform ones between its bounds. The result is a
different network, with a different PSNR.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.frozen import FrozenInput
from sr_quant_cli.quant.grids import affine_int
from sr_quant_cli.quant.quantizers import Quantizer


class _Seen:
    """Bounds of one quantizer, summed over samples, per channel if it has per-channel ranges."""

    def __init__(self) -> None:
        self.lower = self.upper = torch.zeros(())
        self.samples = 0

    def look(self, quantizer: Quantizer, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].float()
        grid = quantizer.grid(x)
        shape = (len(x), *grid.lower.shape[1:])
        upper = grid.upper
        if upper.isinf().any():
            # An unlimited grid extends as far as the values.
            shared = [d for d in range(x.ndim) if upper.shape[d] == 1]
            upper = torch.minimum(upper, x.amax(shared, keepdim=True))
        self.lower = self.lower + grid.lower.expand(shape).sum(0)
        self.upper = self.upper + upper.expand(shape).sum(0)
        self.samples += len(x)


@torch.no_grad()
def fix_ranges(network: Network, batches: Iterable[Tensor]) -> int:
    """Replace the dynamic ranges of a network by static ones, in place.

    Parameters
    ----------
    batches
        LR pictures ``[N, 3, h, w]``, 0..1.

    Returns
    -------
    Number of replaced ranges.
    """
    dynamic = {path: quantizer for path, quantizer in _inputs(network) if _is_dynamic(quantizer)}
    seen = {path: _Seen() for path in dynamic}
    handles = [
        quantizer.register_forward_pre_hook(seen[path].look) for path, quantizer in dynamic.items()
    ]
    network.eval()
    for batch in batches:
        network(batch)
    for handle in handles:
        handle.remove()
    for path, quantizer in dynamic.items():
        found = seen[path]
        lower, upper = (found.lower / found.samples).amin(), (found.upper / found.samples).amax()
        network.set_submodule(path, FrozenInput.of(affine_int(lower, upper, quantizer.bits)))
    network.bit_provider = None
    return len(dynamic)


def _inputs(network: Network) -> Iterable[tuple[str, Quantizer]]:
    for site in network.sites():
        for name, quantizer in network.get_submodule(site.path).named_children():
            if name != "weight_quantizer" and isinstance(quantizer, Quantizer):
                yield f"{site.path}.{name}", quantizer


def _is_dynamic(quantizer: Quantizer) -> bool:
    grid = quantizer.static_grid()
    return grid is None or bool(grid.step.ndim)
