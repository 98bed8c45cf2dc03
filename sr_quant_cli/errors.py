"""The two ways a command ends badly; everything else is a defect and keeps its traceback."""

import re

_PLACE = re.compile(r"Exception from |Check '|.* failed at \S+:\d+:$")
"""Lines of OpenVINO that say where in its source an error was noticed."""
_SOURCE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : \w+ : (?:Non-zero status code .* Status Message: )?"
    r"(?:\S+\.(?:h|cc):\d+ .* was false\. )?"
)
"""What of a line of ONNX Runtime does."""
_MEMORY = re.compile(
    r"bad_alloc|bad allocation|(?:can't|cannot|failed to|unable to) allocate|out of memory", re.I
)


class SrqError(Exception):
    """One clear line for the user: what, where, what is allowed.

    Parameters named in ``problem`` stand in backquotes. The command line puts the names of their
    options in place of them.

    Parameters
    ----------
    problem
        What is wrong, and what is allowed.
    field
        Parameter that is to blame.
    value
        Its value; None: the line does without it.

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
    """The request was sound but (part of) the work failed. Exit code 1."""


class UsageError(SrqError):
    """A wrong option, recipe or input file. Exit code 2."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    r"""The first line of another library's message that tells a user something.

    >>> first_line(ValueError("no such node\n  at line 3")), first_line(ValueError())
    ('no such node', 'ValueError')
    >>> first_line(RuntimeError("Exception from src/core.cpp:84:\nUnable to read the model"))
    'Unable to read the model'
    """
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not _PLACE.match(line)] or lines
    return _SOURCE.sub("", telling[0])[:200] if telling else type(error).__name__


def out_of_memory(error: BaseException) -> bool:
    """Whether another library failed for want of memory, by its class of error or its words.

    >>> out_of_memory(RuntimeError("std::bad_alloc")), out_of_memory(RuntimeError("no such node"))
    (True, False)
    """
    return isinstance(error, MemoryError) or _MEMORY.search(str(error)) is not None


def unknown(kind: str, name: str, known: list[str]) -> UsageError:
    """Build the error for a name that is in no registry, with the nearest known name.

    >>> print(unknown("network", "esdr", ["edsr", "rdn"]))
    unknown network 'esdr': did you mean 'edsr'? known: edsr, rdn
    """
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return UsageError(f"unknown {kind} '{name}':{hint} known: {', '.join(known) or 'none'}")
