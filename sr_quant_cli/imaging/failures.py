"""Failures of reading pictures, told in one line."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import pyvips

from sr_quant_cli.errors import FailedError, UsageError, out_of_memory

_SPILLING = ("unable to write to", "write failed")
"""Messages of libvips when a temporary file for a large picture cannot be written."""

_LACKING = re.compile(r"has not been built in: (\w+)")
"""Message of libheif about a compression that it does not decode."""

_SYSTEM = "system error: "
"""Prefix of the line of libvips with the reason given by the system."""


class UnreadableError(Exception):
    """A file cannot be read; the message continues a sentence about the file."""


@contextlib.contextmanager
def readable(name: Path | str) -> Iterator[None]:
    """Turn errors of reading the picture called ``name`` into one line.

    Raises
    ------
    UsageError
        The file cannot be read.
    FailedError
        There is no room for its pixels, in memory or for temporary files.
    """
    try:
        yield
    except (OSError, UnreadableError) as error:
        raise UsageError(f"cannot read {name}: {one_line(error)}") from error
    except (MemoryError, pyvips.Error) as error:
        if out_of_memory(error):
            raise FailedError(f"out of memory: {name} cannot be read") from error
        if lacking := _LACKING.search(_text(error)):
            raise UsageError(
                f"cannot read {name}: the libvips of this installation does not decode "
                f"{lacking[1]}; save it in another format"
            ) from error
        if any(words in _text(error) for words in _SPILLING):
            raise FailedError(
                f"no room for the pixels of {name}: {one_line(error)}; "
                "set TMPDIR to a folder with room"
            ) from error
        raise UsageError(f"cannot read {name}: {one_line(error)}") from error


def one_line(error: Exception) -> str:
    r"""Return the reason of an error: the system's own words if given, else the first line.

    >>> one_line(pyvips.Error("", "write failed\nsystem error: No space left on device\n"))
    'No space left on device'
    """
    lines = [line.strip() for line in _text(error).strip().splitlines()]
    told = [line.removeprefix(_SYSTEM) for line in lines if line.startswith(_SYSTEM)]
    return next(iter(told + lines), "unknown error")


def _text(error: Exception) -> str:
    if isinstance(error, pyvips.Error):
        return str(error.detail)
    return str(getattr(error, "strerror", None) or error)
