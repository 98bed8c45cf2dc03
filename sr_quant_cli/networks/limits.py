"""Limits on what a file may claim: sizes while a network is built, and values of tensors."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks

from sr_quant_cli.errors import UsageError

VALUES = 2**28
"""Largest number of weights, 1 GiB; the largest published networks have 2**26."""

TENSORS = 10_000
"""Largest number of tensors; the largest published networks have a few thousand."""


class TooLargeError(UsageError):
    """A network is larger than it may be."""


@contextmanager
def at_most(values: int = VALUES, tensors: int = TENSORS) -> Iterator[None]:
    """Raise as soon as the modules made inside the context exceed the limits.

    Parameters
    ----------
    values
        Limit on the values of all parameters and buffers.
    tensors
        Limit on the number of parameters and buffers.

    Raises
    ------
    TooLargeError
        A limit is exceeded, or memory is short.
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
    """Refuse tensors that are not plain, or have values that are not finite.

    Raises
    ------
    ValueError
        The message names the first tensor and counts the others.
    """
    reasons = {name: why for name, tensor in tensors.items() if (why := _unfit(tensor))}
    if reasons:
        name, why = next(iter(reasons.items()))
        others = f" (and {len(reasons) - 1} other tensors)" if len(reasons) > 1 else ""
        raise ValueError(f"{name[:200]} {why}{others}")


def _unfit(tensor: Tensor) -> str:
    """Say why a tensor is refused; empty if it is not."""
    if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
        return "is no plain tensor"
    if tensor.is_complex():
        return "holds complex numbers"
    # With a stride of 0 one value stands for any number of them.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        return "claims more values than the file holds"
    if tensor.is_floating_point() and not tensor.isfinite().all():
        wrong = "NaN" if tensor.isnan().any() else "infinity"
        return f"has values that are no finite numbers ({wrong})"
    return ""
