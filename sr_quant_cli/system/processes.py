"""Several processes under ``torchrun``.

A process knows the others from the environment variables of torchrun. Work on lists is distributed
with ``share`` and gathered with ``collect``; training uses DistributedDataParallel. Without
torchrun there is a single process, and all functions here are trivial.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from sr_quant_cli.errors import FailedError, SrqError, UsageError
from sr_quant_cli.records import record

if TYPE_CHECKING:
    import torch

T = TypeVar("T")

MOST_THREADS = 512
"""Most CPU threads of a process."""

_PATIENCE = timedelta(hours=2)
"""Timeout of collective operations: decoding photographs may take an hour."""

_LOST = ("closed by peer", "reset by peer", "Broken pipe", "likely closed", "ncclRemoteError")
"""Messages of gloo and NCCL when a process has ended; they have no error class for it."""


@record
class World:
    """Rank of this process among all processes, and among those of its machine."""

    rank: int
    size: int
    local_rank: int
    local_size: int


def world() -> World:
    """Read rank and size from torchrun's variables; without them there is one process."""
    names = (("RANK", 0), ("WORLD_SIZE", 1), ("LOCAL_RANK", 0), ("LOCAL_WORLD_SIZE", 1))
    return World(*(int(os.environ.get(name, default)) for name, default in names))


def check_threads(count: int | None) -> None:
    """Refuse a number of threads that cannot be.

    Raises
    ------
    UsageError
        It is neither None nor a whole number from 1 to 512.
    """
    if count is not None and not (type(count) is int and 1 <= count <= MOST_THREADS):
        raise UsageError(
            f"must be a whole number from 1 to {MOST_THREADS}", field="threads", value=count
        )


def thread_limit(count: int | None) -> int | None:
    """Return the CPU threads of this process.

    ``count``, or else its share of the cores; None, without limit, for a single process.

    Raises
    ------
    UsageError
        As ``check_threads``.
    """
    check_threads(count)
    processes = world().local_size
    if count is None and processes > 1:
        return max(1, cores() // processes)
    return count


@contextmanager
def process_group(device: "torch.device | None" = None) -> Iterator[World]:
    """Join the other processes during the block, by gloo, or by NCCL on a CUDA device.

    A block within such a block changes nothing: torchrun's processes can meet only once. A process
    reports its own error, and torchrun ends the others.

    Raises
    ------
    FailedError
        Another process ended while this one waited for it.
    """
    here = world()
    if here.size == 1:
        yield here
        return
    from torch import cuda, distributed

    if distributed.is_initialized():
        yield here
        return
    backend = "gloo"
    if device is not None and device.type == "cuda":
        backend = "nccl"
        cuda.set_device(device)  # objects are sent through the current device
    try:
        distributed.init_process_group(backend, timeout=_PATIENCE)
        yield here
    except SrqError as error:
        error.shared = False
        raise
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _LOST):
            raise
        raise FailedError("another process of this run has ended; its message says why") from error
    # Not after an error: the others may be waiting in a collective operation.
    distributed.destroy_process_group()


def share(items: Sequence[T]) -> list[T]:
    """Return the items of this process: every ``size``-th, starting at its rank."""
    here = world()
    return list(items[here.rank :: here.size])


def collect(items: Sequence[T]) -> list[T]:
    """Gather the results of all processes for their ``share``, in the original order.

    Items are pickled; every process gets all of them.
    """
    size = world().size
    if size == 1:
        return list(items)
    parts: list[Any] = [None] * size
    from torch import distributed

    distributed.all_gather_object(parts, list(items))
    count = sum(map(len, parts))
    return [parts[index % size][index // size] for index in range(count)]


def from_first(value: T) -> T:
    """Return the value of the first process in every process (pickled)."""
    if world().size == 1:
        return value
    from torch import distributed

    box = [value]
    distributed.broadcast_object_list(box)
    return box[0]


@contextmanager
def first_of_machine() -> Iterator[None]:
    """Let the first process of each machine run the block before the others do."""
    here = world()
    if here.size == 1:
        yield
        return
    from torch import distributed

    if here.local_rank:
        distributed.barrier()
    yield
    if not here.local_rank:
        distributed.barrier()


def cores() -> int:
    """Return the number of cores this process may use, fewer than all under a batch system."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def process_count() -> int:
    """Return the number of processes that train together."""
    from torch import distributed

    together = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if together else 1


def average_processes(value: "torch.Tensor") -> None:
    """Replace ``value`` by its mean over the processes that train together."""
    count = process_count()
    if count > 1:
        from torch import distributed

        distributed.all_reduce(value.data)
        value.data /= count
