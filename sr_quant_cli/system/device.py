"""Where and in which precision a network runs."""

import contextlib
import ctypes

import torch

from sr_quant_cli.errors import UsageError
from sr_quant_cli.system.choices import Precision, PrecisionChoice
from sr_quant_cli.system.processes import thread_limit, world

_ALLOWED = "allowed are auto, cpu, cuda, cuda:N"


def pick_device(name: str) -> torch.device:
    """Turn ``auto``, ``cpu``, ``cuda`` or ``cuda:N`` into a device that is there.

    Of several processes, each takes the CUDA device of its local rank.

    Raises
    ------
    UsageError
        The device does not exist here, or does not suffice for the processes of this machine.
    """
    wanted = name
    if name == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise _refused(name, _ALLOWED) from error
    if device.type not in ("cpu", "cuda"):
        raise _refused(name, _ALLOWED)
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
    """Limit torch's CPU threads; None: its own choice, one per core, or a process's part of them.

    torchrun allows each of several processes one thread unless told otherwise.
    """
    limit = thread_limit(count)
    if limit is not None:
        torch.set_num_threads(limit)


def keep_freed_memory() -> None:
    """Let the C library keep the memory that a training step frees, for the next one.

    By default glibc hands large blocks back to the system, which then has to clear and map their
    pages anew in every step. Nothing is done where the library is another one.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        library = ctypes.CDLL(None)
        library.mallopt(_M_MMAP_MAX, 0)
        library.mallopt(_M_TRIM_THRESHOLD, -1)


_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def training_layout(device: torch.device) -> torch.memory_format:
    """Memory layout that a network is trained fastest in: channels last on most devices.

    On processors without AVX-512 the gradients of weights take up to twice as long in it.
    """
    if device.type == "cpu" and not torch.cpu.get_capabilities().get("avx512_f"):
        return torch.contiguous_format
    return torch.channels_last


def has_fast_bf16(device: torch.device) -> bool:
    """Tell whether bfloat16 arithmetic is in the hardware (AMX or AVX512-BF16 on a CPU)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def pick_precision(choice: PrecisionChoice, device: torch.device) -> Precision:
    """Resolve ``auto``: bf16 where the hardware has it, else fp32."""
    if choice != "auto":
        return choice
    return "bf16" if has_fast_bf16(device) else "fp32"


def autocast(precision: Precision, device: torch.device) -> contextlib.AbstractContextManager[None]:
    """Context in which convolutions run in the given precision."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16)
