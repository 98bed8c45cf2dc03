"""Errors that users see as one line; any other exception is a defect and keeps its traceback."""

import re
from collections.abc import Iterable, Sequence

_PLACE = re.compile(r"Exception from |Check '|.* failed at \S+:\d+:$")
"""Lines of OpenVINO that name the place in its source where an error was raised."""
_SOURCE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Non-zero status code .* Status Message: )?"
    r"(?:\S+\.(?:h|cc):\d+ .* was false\. )?"
)
"""Prefix of ONNX Runtime's messages with the place in its source."""
_MEMORY = re.compile(
    r"bad_alloc|bad allocation|(?:can't|cannot|failed to|unable to) allocate|out of memory"
    r"|error creating thread|can't start new thread|failed to map segment",
    re.I,
)

_LINES = 20
"""Largest number of problems that are told at once."""


class SrqError(Exception):
    """Base of the errors for users: one line with the place, the problem and what is allowed.

    Names of parameters in ``problem`` are written in backquotes; the command line replaces them by
    the names of its options.

    Parameters
    ----------
    problem
        The problem, and what is allowed.
    field
        Name of the parameter at fault.
    value
        Value of that parameter; None leaves it out of the line.

    Examples
    --------
    >>> print(UsageError("must be 2, 3 or 4", field="scale", value=5))
    `scale` 5: must be 2, 3 or 4
    """

    exit_code = 1
    shared = True
    """Raised identically on every rank, so only rank 0 reports it."""

    def __init__(self, problem: str, *, field: str | None = None, value: object = None) -> None:
        blamed = f"`{field}`" if value is None else f"`{field}` {value}"
        super().__init__(problem if field is None else f"{blamed}: {problem}")
        self.field = field


class FailedError(SrqError):
    """The request was valid, but the work or a part of it failed. Exit code 1."""


class OutOfMemoryError(FailedError):
    """A step needs more memory than there is; a smaller one may succeed."""


class UsageError(SrqError):
    """Invalid option, recipe or input file. Exit code 2."""

    exit_code = 2


class UnsupportedGraphError(UsageError):
    """A runtime does not have the operations of a graph; others may."""


def first_line(error: BaseException) -> str:
    r"""Return the first line of a library's message that is useful to a user.

    >>> first_line(ValueError("no such node\n  at line 3")), first_line(ValueError())
    ('no such node', 'ValueError')
    >>> first_line(RuntimeError("Exception from src/core.cpp:84:\nUnable to read the model"))
    'Unable to read the model'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not _PLACE.match(line)] or lines
    return _SOURCE.sub("", telling[0])[:200] if telling else type(error).__name__


def together(problems: Iterable[str]) -> str:
    r"""Join problems to one message, a line each; of very many, the first ones and their number.

    >>> together(["a", "b", "a"])
    'a\nb'
    """
    lines = list(dict.fromkeys(problems))
    more = len(lines) - _LINES
    return "\n".join(lines[:_LINES] + [f"{more:,} more problems"] * (more > 0))


def out_of_memory(error: BaseException) -> bool:
    """Tell if a library ran out of memory, by the class or the text of its error.

    >>> out_of_memory(RuntimeError("std::bad_alloc")), out_of_memory(RuntimeError("no such node"))
    (True, False)
    """
    return isinstance(error, MemoryError) or _MEMORY.search(str(error)) is not None


def check_one_of(field: str, value: object, allowed: Sequence[str]) -> None:
    """Refuse a value that is not among those of a parameter.

    Raises
    ------
    UsageError
        It is another one.
    """
    if value not in allowed:
        raise UsageError(f"must be one of {', '.join(allowed)}", field=field, value=value)


def unknown(kind: str, name: str, known: list[str]) -> UsageError:
    """Build the error for an unknown name, with the nearest known one.

    >>> print(unknown("network", "esdr", ["edsr", "rdn"]))
    unknown network 'esdr': did you mean 'edsr'? known: edsr, rdn
    """
    known_names = ", ".join(known) or "none"
    return UsageError(f"unknown {kind} '{name}':{nearest(name, known)} known: {known_names}")


def nearest(name: str, known: Iterable[str]) -> str:
    """Ask if the known name that is nearest was meant; empty if none is near.

    >>> nearest("esdr", ["edsr", "rdn"])
    " did you mean 'edsr'?"
    """
    from difflib import get_close_matches

    near = get_close_matches(name, list(known), n=1)
    return f" did you mean '{near[0]}'?" if near else ""
