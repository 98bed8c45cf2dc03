"""``srq study``."""

from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import DataRoot, Device, Json, Photographs


def study(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Study file, TOML.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Study folder; default: runs/NAME."),
    ] = None,
    jobs: Annotated[
        int, typer.Option(metavar="COUNT", help="Processes that work at the same time.")
    ] = 1,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=512,
            help="CPU threads of each process; default: an equal share of the cores.",
        ),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(metavar="PATTERN", help="Run the cells whose names match, as '*-w2a2*'."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, and run nothing.")
    ] = False,
    tables_only: Annotated[
        bool,
        typer.Option("--tables-only", help="Make the tables and plots from rows that are there."),
    ] = False,
    data: Photographs = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Run a grid of models, methods, bits and seeds into tables.

    Every cell is quantized, scored on benchmark sets, and timed if FILE has [bench]. The plan is
    shown first. The study folder gets rows.jsonl, a row for each cell, tables/ (Markdown, CSV,
    LaTeX) and plots/. Stages and calibrations that cells share are made once. A cell that fails is
    a row with its reason; the others go on, and the exit code is 1.

    The same command continues a study that was stopped at any moment, tries failed cells again,
    and after a change of FILE runs only what the change concerns.

    \b
    Examples:
      srq study studies/smoke.toml --dry-run
      srq study studies/main.toml --out results/ --data photos/ --jobs 4 --threads 2
      srq study studies/main.toml --out results/ --only '*-pams-*'
      srq study studies/main.toml --out results/ --tables-only
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import study as core
    from sr_quant_cli.commands.study_records import read_rows
    from sr_quant_cli.errors import FailedError
    from sr_quant_cli.recipe.study import load_study
    from sr_quant_cli.report.study import print_plan, print_study, write_tables
    from sr_quant_cli.report.terminal import say
    from sr_quant_cli.system.files import write_json

    read = load_study(file)
    folder = out or Path("runs") / read.name
    if tables_only:
        done = core.StudyResult(read, folder, tuple(read_rows(folder)))
    else:
        request = core.StudyRequest(
            file=file,
            out=folder,
            jobs=jobs,
            threads=threads,
            only=only,
            data=data,
            device=device,
            data_root=data_root,
        )
        plan = core.plan(request)
        print_plan(plan, core.open_parts(request, plan))
        if dry_run:
            return
        done = core.study(request, plan)
    files = write_tables(folder, done.study, done.rows)
    print_study(done.study, done.rows)
    say(f"{len(done.rows)} rows, {len(files)} tables and plots in {folder}")
    if json is not None:
        write_json(json, done.to_json())
    if done.failed:
        raise FailedError(
            f"{len(done.failed)} failed: {', '.join(done.failed)}; the same command tries again"
        )
