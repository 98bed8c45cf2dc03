"""What reaches the terminal: text of files in it must not steer it."""

import sys
from typing import TextIO


def printable(text: object) -> str:
    r"""A text as one may print it: control characters and other invisible ones are spelled out.

    >>> print(printable("a name\x1b]0;title\x07"), printable("a\u202eb"), printable("\udcff"))
    a name\x1b]0;title\x07 a\u202eb \udcff
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in str(text)
    )


def say(text: object = "", file: TextIO | None = None) -> None:
    """Print lines, each as one may; to standard output unless told otherwise."""
    for line in str(text).split("\n"):
        print(printable(line), file=file or sys.stdout, flush=True)
