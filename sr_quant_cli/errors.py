"""The two ways a command ends badly; everything else is a defect and keeps its traceback."""


class SrqError(Exception):
    """One clear line for the user: what, where, what is allowed."""

    exit_code = 1
    shared = True
    """Every process of a distributed run meets it alike, so that the first one tells."""


class FailedError(SrqError):
    """The request was sound but (part of) the work failed. Exit code 1."""


class UsageError(SrqError):
    """A wrong option, recipe or input file. Exit code 2."""

    exit_code = 2


def first_line(error: BaseException) -> str:
    r"""Where the message of another library ends for a user.

    >>> first_line(ValueError("no such node\n  at line 3")), first_line(ValueError())
    ('no such node', 'ValueError')
    """
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def unknown(kind: str, name: str, known: list[str]) -> UsageError:
    """Build the error for a name that is in no registry, with the nearest known name.

    >>> print(unknown("network", "esdr", ["edsr", "rdn"]))
    unknown network 'esdr': did you mean 'edsr'? known: edsr, rdn
    """
    from difflib import get_close_matches

    near = get_close_matches(name, known, n=1)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return UsageError(f"unknown {kind} '{name}':{hint} known: {', '.join(known) or 'none'}")
