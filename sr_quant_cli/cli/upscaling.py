"""``srq upscale`` behind its options; nothing here imports Typer, which takes as long as a picture.

``plain_request`` reads the most common command lines itself. Typer reads all others.
"""

import gc
import os
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sr_quant_cli.errors import UsageError

if TYPE_CHECKING:
    from sr_quant_cli.commands.upscale import UpscaleRequest

_TEXTS = {"-o": "output", "--output": "output", "--scale": "scale", "--model": "model"}
_FLAGS = {"--overwrite": "overwrite", "-r": "recursive", "--recursive": "recursive"}
"""Options that ``plain_request`` reads, with the names of their parameters."""

_BLAS_THREADS = "OPENBLAS_NUM_THREADS"


@contextmanager
def quick_imports() -> Iterator[None]:
    """Import faster: collect no garbage, and start no threads of numpy's OpenBLAS."""
    by_user = os.environ.get(_BLAS_THREADS)
    os.environ.setdefault(_BLAS_THREADS, "1")
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        if by_user is None:
            del os.environ[_BLAS_THREADS]


def factors(text: str) -> tuple[float, float]:
    """Read factors of width and height.

    >>> factors("2.5"), factors("1.5x1")
    ((2.5, 2.5), (1.5, 1.0))

    Raises
    ------
    UsageError
        The text is no factor.
    """
    found = re.fullmatch(r"(\d{1,3}(?:\.\d{1,9})?)(?:x(\d{1,3}(?:\.\d{1,9})?))?", text)
    if found is None:
        raise UsageError("must be a factor such as 4, 2.5 or 1.5x1", field="scale", value=text)
    return float(found[1]), float(found[2] or found[1])


def plain_request(arguments: Sequence[str]) -> "UpscaleRequest | None":
    """Read the arguments of a plain ``srq upscale``: pictures, and few options, each at most once.

    Returns
    -------
    None for any other command line, also one with mistakes, which Typer names.

    Raises
    ------
    UsageError
        The scale is not usable.
    """
    given = _plain(arguments)
    if given is None:
        return None
    with quick_imports():
        from sr_quant_cli.commands.batch import BatchOptions
        from sr_quant_cli.commands.sizes import SizeRequest
        from sr_quant_cli.commands.upscale import UpscaleRequest

    scale, overwrite = given.pop("scale", None), given.pop("overwrite", False)
    size = SizeRequest(None if scale is None else factors(scale))
    return UpscaleRequest(batch=BatchOptions(size=size, overwrite=overwrite), **given)


def _plain(arguments: Sequence[str]) -> dict[str, Any] | None:
    """Values of parameters by their names; None: the arguments are not plain."""
    if arguments[:1] != ["upscale"] or os.name == "nt" or "_SRQ_COMPLETE" in os.environ:
        return None  # Windows leaves patterns to the command, and completion is Typer's
    given: dict[str, Any] = {}
    inputs = []
    words = iter(arguments[1:])
    for word in words:
        name = _TEXTS.get(word) or _FLAGS.get(word)
        text = next(words, "") if word in _TEXTS else word
        if name in given or not text or (text.startswith("-") and word not in _FLAGS):
            return None
        if name is None:
            inputs.append(text)
        else:
            given[name] = text if word in _TEXTS else True
    return {**given, "inputs": tuple(inputs)} if inputs else None


def carry_out(request: "UpscaleRequest", json: Path | None = None) -> None:
    """Enlarge the pictures of a request, and write the report.

    Raises
    ------
    UsageError
        Something is not usable.
    FailedError
        A picture could not be enlarged or written.
    """
    with quick_imports():
        from dataclasses import replace

        from sr_quant_cli.commands.jobs import check_places
        from sr_quant_cli.commands.places import STREAM
        from sr_quant_cli.commands.upscale import upscale
        from sr_quant_cli.system.files import check_outputs, write_json
        from sr_quant_cli.system.processes import world
        from sr_quant_cli.system.reporting import results_as_notes

    place = check_places(request.inputs, request.output)
    named = [Path(text) for text in (*request.inputs, request.model) if text not in (None, "-")]
    to_stdout = place.file == STREAM
    if to_stdout and sys.__stdout__ is None:
        raise UsageError("standard output is closed")
    if to_stdout and not request.dry_run and sys.stdout.isatty():
        raise UsageError("standard output is a terminal: name a file, or redirect it")
    check_outputs({"output": None if to_stdout else place.file, "json": json}, named)
    content = _standard_input() if str(STREAM) in request.inputs else b""
    batch = replace(request.batch, content=content, stdout=sys.stdout.buffer)
    with results_as_notes() if to_stdout else nullcontext():
        done = upscale(replace(request, batch=batch))
    if world().rank:
        return
    if json is not None:
        write_json(json, done.to_json())
    done.raise_failures()


def _standard_input() -> bytes:
    """Read all of standard input."""
    if sys.stdin is None:
        raise UsageError("standard input is closed")
    return sys.stdin.buffer.read()
