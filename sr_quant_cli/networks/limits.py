"""What a file claims is held against what it holds: sizes while a network is built, and values."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from sr_quant_cli.errors import UsageError

VALUES = 2**28
"""Weights of the largest network that is built, 1 GiB; the largest published ones have 2**26."""

TENSORS = 50_000
"""Tensors of the largest network that is built; the largest published ones have some thousands."""


class TooLargeError(UsageError):
    """A network is larger than it may be."""


@contextmanager
def at_most(values: int = VALUES, tensors: int = TENSORS) -> Iterator[None]:
    """Break off as soon as the modules that are made in the block have more than that.

    Parameters
    ----------
    values
        Of all parameters and buffers.
    tensors
        Parameters and buffers.

    Raises
    ------
    TooLargeError
        They have more, or there is no memory for one of them.
    """
    counted_values = counted_tensors = 0

    def count(_module: nn.Module, _name: str, tensor: Tensor | None) -> None:
        nonlocal counted_values, counted_tensors
        if tensor is not None:
            counted_values += tensor.numel()
            counted_tensors += 1
        if counted_values > values or counted_tensors > tensors:
            raise TooLargeError(
                f"the network is too large: more than {values:,} weights, or {tensors:,} tensors"
            )

    handles = [
        hooks.register_module_parameter_registration_hook(count),
        hooks.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    except RuntimeError as error:
        if "alloc" not in str(error).lower() and "overflow" not in str(error).lower():
            raise
        raise TooLargeError("the network is too large: no memory for one of its layers") from error
    finally:
        for handle in handles:
            handle.remove()


def check_tensors(tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is no plain tensor of finite numbers.

    Raises
    ------
    ValueError
        With the name of the first of them, and how many there are.
    """
    reasons = {name: why for name, tensor in tensors.items() if (why := _unfit(tensor))}
    if reasons:
        name, why = next(iter(reasons.items()))
        others = f" (and {len(reasons) - 1} other tensors)" if len(reasons) > 1 else ""
        raise ValueError(f"{name[:200]} {why}{others}")


def _unfit(tensor: Tensor) -> str:
    """What is wrong with a tensor; empty: nothing."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return "is no plain tensor"
    if tensor.is_complex():
        return "holds complex numbers"
    # A stride of 0 makes any number of values of one.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "claims more values than the file holds"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        wrong = "NaN" if tensor.isnan().any() else "infinity"
        return f"has values that are no finite numbers ({wrong})"
    return ""
