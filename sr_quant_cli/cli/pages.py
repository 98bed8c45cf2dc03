"""Pages on the commands in Markdown, made from their help.

``python -m sr_quant_cli.cli.pages docs/commands`` writes them.
"""

import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer

from sr_quant_cli.cli.tree import app
from sr_quant_cli.system.files import check_own, replacing

WRITTEN = "Written by `python -m sr_quant_cli.cli.pages docs/commands`."
"""Line at the top of every page."""

EXIT_CODES = (
    "Exit codes: 0 done, 1 failed (even a single item of a batch), 2 wrong option, recipe or input "
    "file, 130 interrupted (Ctrl-C), 143 ended (SIGTERM), 141 when the reader of the output has "
    "gone, as with `| head`."
)


def command_pages() -> dict[str, str]:
    """Markdown by file name: a page for each command, and ``README.md``, a list."""
    root = typer.main.get_command(app)
    context = root.make_context("srq", [], resilient_parsing=True)
    pages, entries = {}, []
    for name, command in _subcommands(root).items():
        pages[f"{name}.md"] = "\n".join([*_command(name, command, context, "#"), ""])
        entries.append(f"* [`srq {name}`]({name}.md): {command.get_short_help_str(10_000)}")
    title = ["# Commands", "", WRITTEN, ""]
    pages["README.md"] = "\n".join([*title, *entries, "", EXIT_CODES, ""])
    return pages


def _subcommands(command: Any) -> Mapping[str, Any]:
    """Subcommands that help lists, by name; none if the command is not a group."""
    found = getattr(command, "commands", {})
    return {name: found[name] for name in found if not found[name].hidden}


def _command(name: str, command: Any, parent: Any, heading: str) -> Iterator[str]:
    """Yield the lines on a command, and on its subcommands under deeper headings."""
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield f"{heading} {context.command_path}"
    if heading == "#":
        yield from ("", WRITTEN)
    page = _MarkdownFormatter(f"{heading}#")
    command.format_help(context, page)
    yield from page.lines
    for below, subcommand in _subcommands(command).items():
        yield ""
        yield from _command(below, subcommand, context, "##")


class _MarkdownFormatter:
    """Formatter of help that writes Markdown.

    Its methods are those of click's ``HelpFormatter`` that commands call.
    """

    width = 10_000

    def __init__(self, heading: str) -> None:
        self.lines: list[str] = []
        self._heading = heading

    def write_usage(self, prog: str, args: str = "") -> None:
        self.lines += ["", "```text", f"{prog} {args}".rstrip(), "```"]

    def write_paragraph(self) -> None:
        """Begin a paragraph; the text that follows does so by itself."""

    @contextmanager
    def indentation(self) -> Iterator[None]:
        yield

    def write_text(self, text: str) -> None:
        """Write paragraphs; those behind a backspace are examples."""
        for paragraph in text.split("\n\n"):
            if paragraph.startswith("\b\n"):
                title, _, block = paragraph[2:].partition("\n")
                self._write_title(title.rstrip(":"))
                self.lines += ["```sh", *textwrap.dedent(block).splitlines(), "```"]
            else:
                self.lines += ["", *textwrap.wrap(_markdown(" ".join(paragraph.split())), 100)]

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        before = len(self.lines)
        self._write_title(name)
        empty = len(self.lines)
        yield
        if len(self.lines) == empty:
            del self.lines[before:]

    def write_dl(self, rows: Iterable[tuple[str, str]]) -> None:
        self.lines += [
            f"* `{_plain_types(name)}`: {_markdown(' '.join(_plain_ranges(text).split()))}"
            for name, text in rows
            if "--help" not in name
        ]

    def _write_title(self, title: str) -> None:
        self.lines += ["", f"{self._heading} {title}", ""]


def _plain_types(name: str) -> str:
    """Replace the types of Python in the name of a parameter.

    >>> _plain_types("--threads <int range>"), _plain_types("--name <str>")
    ('--threads N', '--name TEXT')
    >>> _plain_types("MODEL <list[str]>"), _plain_types("--frames <all|first>")
    ('MODEL', '--frames <all|first>')
    """
    number, text = r" <(list\[)?(int|float)( range)?\]?>", r" <(list\[)?str\]?>"
    if not name.startswith("-"):
        return re.sub(f"{number}|{text}", "", name)
    return re.sub(text, " TEXT", re.sub(number, " N", name))


def _plain_ranges(text: str) -> str:
    """Put ranges and what is in brackets into words.

    >>> _plain_ranges("Threads.  [1<=x<=512]"), _plain_ranges("Tile.  [x>=1; required]")
    ('Threads.  (1 to 512)', 'Tile.  (at least 1; required)')
    """
    text = re.sub(r"(\d+)<=x<=(\d+)", r"\1 to \2", text)
    return re.sub(r"\[([^\[\]]*)\]", r"(\1)", re.sub(r"x>=(\d+)", r"at least \1", text))


def _markdown(text: str) -> str:
    r"""Escape what Markdown would take for markup.

    >>> print(_markdown("patterns as '*.png', sizes < 9"))
    patterns as '\*.png', sizes &lt; 9
    """
    return text.replace("<", "&lt;").replace("*", r"\*")


def write(folder: Path) -> None:
    """Write the pages into a folder, over those of earlier versions only."""
    pages = command_pages()
    for name in pages:
        check_own(folder / name, WRITTEN.encode())
    for name, text in pages.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(Path(sys.argv[1]))
