"""Device, threads, memory and precision of a network."""

import contextlib
import ctypes

import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.system.choices import DEVICES, Precision, PrecisionChoice
from sr_quant_cli.system.processes import thread_limit, world


def pick_device(name: str) -> torch.device:
    """Return the device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    With several processes, each takes the CUDA device of its local rank.

    Raises
    ------
    UsageError
        There is no such device, or not one for each process of this machine.
    """
    wanted = name
    if name == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise _refused(name, DEVICES) from error
    if device.type not in ("cpu", "cuda"):
        raise _refused(name, DEVICES)
    if device.type == "cpu":
        return device
    here, count = world(), torch.cuda.device_count()
    if (device.index or 0) >= count:
        raise _refused(name, f"{count} CUDA devices are there")
    if device.index is not None and here.local_size > 1:
        raise _refused(
            name,
            f"{here.local_size} processes of this machine cannot share a device; "
            "with `device` cuda each takes its own",
        )
    if here.local_size > count:
        raise _refused(
            name,
            f"{here.local_size} processes of this machine need a CUDA device each, "
            f"{count} are there",
        )
    if device.index is None and here.size > 1:
        return torch.device("cuda", here.local_rank)
    return device


def _refused(name: str, problem: str) -> UsageError:
    return UsageError(problem, field="device", value=name)


def set_threads(count: int | None) -> None:
    """Limit torch's CPU threads; None: one per core, shared among the processes of the machine.

    torchrun itself gives each of several processes a single thread.
    """
    limit = thread_limit(count)
    if limit is not None:
        torch.set_num_threads(limit)


def keep_freed_memory() -> None:
    """Let the C library keep memory that a training step frees, for the next step.

    By default glibc returns large blocks to the system, which has to map and clear their pages
    again in every step. With other C libraries nothing happens.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def training_layout(device: torch.device) -> torch.memory_format:
    """Return the fastest memory layout for training: channels last on most devices.

    On processors without AVX-512, weight gradients take up to twice as long in that layout.
    """
    if device.type == "cpu" and not torch.cpu.get_capabilities().get("avx512_f"):
        return torch.contiguous_format
    return torch.channels_last


def has_fast_bf16(device: torch.device) -> bool:
    """Tell if the hardware computes in bfloat16 (AMX or AVX512-BF16 on a CPU)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def pick_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 if the hardware has it, else fp32."""
    if choice != "auto":
        return choice
    return "bf16" if has_fast_bf16(device) else "fp32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Return a context in which convolutions run in the given precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
