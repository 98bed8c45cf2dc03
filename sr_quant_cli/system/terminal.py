"""Text of files where it reaches the terminal, or the names of files: it must not steer either."""

import re


def printable(text: object) -> str:
    r"""A text as one may print it: control characters and other invisible ones are spelled out.

    >>> print(printable("a name\x1b]0;title\x07"), printable("a\u202eb"), printable("\udcff"))
    a name\x1b]0;title\x07 a\u202eb \udcff
    """
    return "".join(
        sign if sign.isprintable() else sign.encode("unicode_escape").decode("ascii")
        for sign in str(text)
    )


def file_name(text: str) -> str:
    r"""A text as the name of one file or folder: letters, digits and a few signs, no path.

    >>> file_name("../../a\x1bb"), file_name(".."), file_name("edsr-x4, half depth (2)")
    ('a-b', 'unnamed', 'edsr-x4, half depth (2)')
    """
    return re.sub(r"[^\w .,+=()-]+", "-", text)[:80].strip(".- ") or "unnamed"
