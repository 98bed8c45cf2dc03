"""Detection of diverging training, and of the layer where it began."""

import math
from typing import Any

import torch
from torch import Tensor, nn

_WINDOW = 20
"""Number of steps whose mean loss is compared, as single batches vary."""
_FACTOR = 20.0
"""Ratio of a mean loss to the lowest one so far from which it counts as exploded."""
_GROWTH = 10.0
"""Growth of the output of the layer where an explosion began."""


class LossWatch:
    """Monitor of the loss.

    >>> watch = LossWatch()
    >>> [watch.exploded(loss) for loss in [2.0] * 40 + [900.0] * 20].index(True)
    59
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._count = 0
        self._lowest = math.inf

    def exploded(self, loss: float) -> bool:
        """Take the loss of the next step; return True if the mean of the last window exploded."""
        self._sum += loss
        self._count += 1
        if self._count < _WINDOW:
            return False
        mean = self._sum / _WINDOW
        self._sum, self._count = 0.0, 0
        if mean > _FACTOR * self._lowest:
            return True
        self._lowest = min(self._lowest, mean)
        return False

    def state(self) -> dict[str, Any]:
        """Return plain values for a checkpoint."""
        return {"sum": self._sum, "count": self._count, "lowest": self._lowest}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the result of ``state``."""
        self._sum, self._count, self._lowest = state["sum"], state["count"], state["lowest"]


def first_bad_layer(network: nn.Module, lr: Tensor) -> str:
    """Name the first weights, output or gradient that is not finite.

    Layers are searched in the order in which they run, gradients in reverse order.

    Parameters
    ----------
    lr
        Batch ``[N, 3, h, w]`` on which the loss or a gradient was not finite.
    """
    for name, parameter in network.named_parameters():
        if not bool(parameter.isfinite().all()):
            return f"the weights of {name}"
    for name, magnitude in _magnitudes(network, lr).items():
        if not math.isfinite(magnitude):
            return f"the output of {name}"
    for name, parameter in reversed(list(network.named_parameters())):
        if parameter.grad is not None and not bool(parameter.grad.isfinite().all()):
            return f"the gradient of {name}"
    return "the loss itself"


def most_grown_layer(network: nn.Module, lr: Tensor, good: dict[str, Tensor] | None) -> str:
    """Name the first layer whose output has grown tenfold, else the one that has grown most.

    Parameters
    ----------
    lr
        Batch ``[N, 3, h, w]`` on which the loss exploded.
    good
        Earlier weights to compare with; None: the layer with the largest output is named.
    """
    now = _magnitudes(network, lr)
    before = dict.fromkeys(now, 1.0)
    if good is not None:
        exploded = {key: value.clone() for key, value in network.state_dict().items()}
        network.load_state_dict(good)
        before = _magnitudes(network, lr)
        network.load_state_dict(exploded)
    growth = {name: now[name] / (before[name] + 1e-12) for name in now}
    name = next(
        (name for name, factor in growth.items() if good and factor > _GROWTH),
        max(growth, key=growth.__getitem__),
    )
    return f"the output of {name}"


def _magnitudes(network: nn.Module, lr: Tensor) -> dict[str, float]:
    """Root mean square of the output of each layer, in the order in which they run."""
    magnitudes: dict[str, float] = {}
    handles = []

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and name not in magnitudes:
                magnitudes[name] = output.float().square().mean().sqrt().item()

        return hook

    for name, module in network.named_modules():
        if not any(True for _ in module.children()):
            handles.append(module.register_forward_hook(note(name)))
    try:
        with torch.no_grad():
            network(lr)
    finally:
        for handle in handles:
            handle.remove()
    return magnitudes
