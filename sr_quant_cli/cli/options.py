"""Options that several commands share, declared once."""

import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from sr_quant_cli.errors import UsageError
from sr_quant_cli.runtimes.registry import check_choice, choices, runtimes
from sr_quant_cli.system import choices as values


def own_file(field: str) -> Callable[[Path | None], Path | None]:
    """Make the callback of ``json``, ``csv`` or ``markdown``.

    It refuses to replace a file that is none of srq's, before any work is done.
    """

    def check(path: Path | None) -> Path | None:
        if path is not None:
            from sr_quant_cli.system.files import PAGE, REPORT, TABLE, check_own

            try:
                check_own(path, {"json": REPORT, "csv": TABLE, "markdown": PAGE}[field])
            except UsageError as error:
                raise UsageError(str(error), field=field) from error
        return path

    return check


def complete_model(incomplete: str) -> list[str]:
    """Names of models, then files and folders, that begin with what is typed."""
    from sr_quant_cli.modelfiles.named import FAMILIES, model_names

    folder, slash, prefix = incomplete.rpartition("/")
    names, paths = [], []
    with suppress(UsageError):  # the user's folder cannot be read
        names = [name for name in (*model_names(), *FAMILIES) if name.startswith(incomplete)]
    with suppress(OSError):
        paths = [
            f"{folder}{slash}{path.name}{'/' if path.is_dir() else ''}"
            for path in sorted(Path(folder + slash).iterdir())
            if path.name.startswith(prefix) and path.name.startswith(".") == prefix.startswith(".")
        ]
    return [*names, *paths]


def rectangle(text: str, field: str) -> tuple[int, int, int, int]:
    """Read a rectangle, such as 10,20,640,480.

    Raises
    ------
    UsageError
        With the parameter ``field``.
    """
    found = re.fullmatch(r"(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})", text)
    if found is None:
        raise UsageError("must be X,Y,W,H in pixels, as 0,0,640,480", field=field, value=text)
    left, top, width, height = map(int, found.groups())
    return left, top, width, height


def width(text: str | None) -> int | str | None:
    """Read bits as a number; levels, as 29L, stay text.

    >>> width("4"), width("29L")
    (4, '29L')
    """
    return int(text) if text is not None and re.fullmatch("[0-9]{1,9}", text) else text


_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}


def pixel_count(text: str) -> int:
    """Read a number of pixels.

    >>> pixel_count("1.5G"), pixel_count("20000")
    (1500000000, 20000)

    Raises
    ------
    UsageError
        The text is no number.
    """
    found = re.fullmatch(r"(\d{1,12}(?:\.\d{1,9})?)([KMG]?)", text.upper())
    if found is None:
        raise UsageError("must be a number, as 500M or 2G", field="max_pixels", value=text)
    return int(float(found[1]) * _UNITS[found[2]])


MaxPixels = Annotated[
    Any,
    typer.Option(
        metavar="COUNT",
        parser=pixel_count,
        help="Refuse larger results; K, M and G are understood.",
    ),
]
Json = Annotated[
    Path | None,
    typer.Option(
        "--json", metavar="FILE", callback=own_file("json"), help="Also write the report as JSON."
    ),
]
Precision = Annotated[
    values.PrecisionChoice,
    typer.Option(help="Arithmetic of the network; auto: bf16 where the hardware has it."),
]


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", name):
        raise UsageError("must be auto, cpu, cuda or cuda:N, as cuda:1", field="device", value=name)
    return name


Device = Annotated[
    str,
    typer.Option(callback=_device, help="auto, cpu, cuda or cuda:N; auto: CUDA if there is one."),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=1,
        max=512,
        help="CPU threads; default: one for each core, shared equally by processes of torchrun.",
    ),
]
Depth = Annotated[
    values.Depth,
    typer.Option(help="Share of the blocks to run, for networks with several depths."),
]

SelfEnsemble = Annotated[
    bool,
    typer.Option(
        "--self-ensemble",
        help="Mean of eight rotations and reflections, as in papers: eight times as slow.",
    ),
]
Range = Annotated[
    Literal["1", "255"] | None,
    typer.Option(
        "--range", help="White in the float input and output of a foreign graph; default: 1."
    ),
]


def check_runtime(name: str | None) -> str | None:
    """Refuse a runtime that is not registered; None leaves the choice to the command."""
    if name is not None:
        check_choice(name)
    return name


RUNTIMES = f"[{'|'.join(choices())}]"
"""values of the option ``runtime``, for help texts"""

GRAPHS = ", ".join(dict.fromkeys(suffix for entry in runtimes() for suffix in entry.suffixes))
"""suffixes of graph files, for help texts"""

Runtime = Annotated[
    str,
    typer.Option(
        metavar=RUNTIMES,
        callback=check_runtime,
        help="Runtime of the network; auto: CUDA, or the fastest one that agrees with the model.",
    ),
]
Patchwise = Annotated[
    bool,
    typer.Option(
        "--patchwise",
        help="Enlarge each patch on its own, as papers on dynamic bit widths do.",
    ),
]
Patch = Annotated[
    int | None, typer.Option(metavar="PIXELS", help="LR pixels per side of a patch; default 96.")
]
Step = Annotated[
    int | None,
    typer.Option(
        metavar="PIXELS",
        help="LR pixels from patch to patch; half of the overlap is discarded; default 90.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Folder of the data sets; else SRQ_DATA, else ./datasets."),
]

# Of the commands that train.
Photographs = Annotated[
    str | None,
    typer.Option(
        metavar="DIR|NAME",
        help="Folder, DIV2K, Flickr2K, DF2K, sample, or several: DIV2K+Flickr2K.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a recipe field; may be repeated."),
]
RunDir = Annotated[
    Path | None,
    typer.Option(
        "--run",
        "--run-dir",  # torchrun takes --run as a prefix of one of its own options
        metavar="DIR",
        help="Run folder; default: below runs/, named after the model.",
    ),
]
Resume = Annotated[
    str, typer.Option(help="auto: continue the run in the folder, if any; no: refuse to.")
]


def seconds(text: str) -> float:
    """Read a duration: ``90s``, ``30m``, ``2h`` or ``1h30m``.

    >>> seconds("1h30m")
    5400.0

    Raises
    ------
    UsageError
        The text is no duration, or the duration is zero.
    """
    parts = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip())
    try:
        values = [float(part or 0) for part in parts.groups()] if parts else []
    except ValueError:
        values = []
    total = sum(value * unit for value, unit in zip(values, (3600, 60, 1), strict=False))
    if not total:
        raise UsageError(
            "must be a duration as 90s, 30m, 2h or 1h30m", field="max_time", value=text
        )
    return total


MaxTime = Annotated[
    float | None,
    typer.Option(
        metavar="TIME", parser=seconds, help="Save and stop after this long: 90s, 30m, 2h."
    ),
]


def _check_trackers(trackers: list[str] | None) -> list[str] | None:
    known = get_args(values.TrackerName)
    for name in trackers or ():
        if name not in known:
            raise UsageError(f"must be one of {', '.join(known)}", field="trackers", value=name)
    return trackers


Trackers = Annotated[
    list[str] | None,
    typer.Option(
        "--tracker",
        metavar="|".join(get_args(values.TrackerName)),
        callback=_check_trackers,
        help="Also log to TensorBoard, Weights & Biases or MLflow; repeatable.",
    ),
]
TensorBoard = Annotated[
    bool, typer.Option("--tensorboard", help="The same as --tracker tensorboard.")
]
Iters = Annotated[
    int | None,
    typer.Option(help="Training steps; the schedule is scaled to them."),
]


def tracked(trackers: list[str] | None, *, tensorboard: bool) -> tuple[values.TrackerName, ...]:
    """Names of the trackers of both options."""
    asked = {*(trackers or ()), *(("tensorboard",) if tensorboard else ())}
    names: tuple[values.TrackerName, ...] = get_args(values.TrackerName)
    return tuple(name for name in names if name in asked)
