"""Reading, computing and writing of several items, overlapped."""

from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from sr_quant_cli.errors import SrqError

Item = TypeVar("Item")
Read = TypeVar("Read")
Made = TypeVar("Made")
Done = TypeVar("Done")

AHEAD = 2
"""items that are read before their turn, and that wait to be written"""


def overlap(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Made],
    write: Callable[[Item, Made], Done],
    finished: Callable[[Item, Done | SrqError], None],
    *,
    ahead: int = AHEAD,
) -> None:
    """Compute items one after another while others are read and written in threads.

    An error of an item is its outcome, and does not stop the others. Any other exception abandons
    the items that are not written yet; those that are finished or nearly so are still reported.

    Parameters
    ----------
    read, write
        Run in one thread each, in the order of the items.
    compute, finished
        Run in this thread; ``finished`` gets the outcomes in the order of the items.
    ahead
        Largest number of items that are read and wait for ``compute``, and of those that are
        computed and wait for ``write``; memory is bounded by it.
    """
    waiting = iter(items)
    reading: deque[tuple[Item, Future[Read]]] = deque()
    writing: deque[tuple[Item, Future[Done]]] = deque()

    def report() -> None:
        item, future = writing.popleft()
        error = future.exception()
        if error is not None and not isinstance(error, SrqError):
            raise error
        finished(item, future.result() if error is None else error)

    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        try:
            while True:
                for item in waiting:
                    reading.append((item, reader.submit(read, item)))
                    if len(reading) > ahead:
                        break
                if not reading:
                    break
                item, opened = reading.popleft()
                try:
                    made = compute(item, opened.result())
                except SrqError as error:
                    writing.append((item, _failed(error)))
                else:
                    writing.append((item, writer.submit(write, item, made)))
                while writing and (len(writing) > ahead or writing[0][1].done()):
                    report()
            while writing:
                report()
        except BaseException:
            reader.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)
            for item, future in writing:
                if not future.cancelled() and future.exception() is None:
                    finished(item, future.result())
            raise


def _failed(error: SrqError) -> Future[Done]:
    future: Future[Done] = Future()
    future.set_exception(error)
    return future
