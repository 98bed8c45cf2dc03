"""Untrusted text, made safe for the terminal and for file names."""

import re


def printable(text: object) -> str:
    r"""Escape control characters and other invisible ones.

    >>> print(printable("a name\x1b]0;title\x07"), printable("a\u202eb"), printable("\udcff"))
    a name\x1b]0;title\x07 a\u202eb \udcff
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in str(text)
    )


def file_name(text: str) -> str:
    r"""Turn a text into the name of a file or folder: letters, digits and a few signs, no path.

    >>> file_name("../../a\x1bb"), file_name(".."), file_name("edsr-x4, half depth (2)")
    ('a-b', 'unnamed', 'edsr-x4, half depth (2)')
    """
    return re.sub(r"[^\w .,+=()-]+", "-", text)[:80].strip(".- ") or "unnamed"
