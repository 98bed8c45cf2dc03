"""``srq distill``."""

from typing import Annotated

import typer

from sr_quant_cli.cli.options import (
    DataRoot,
    Device,
    Iters,
    Json,
    MaxTime,
    Overrides,
    Photographs,
    Resume,
    RunDir,
    TensorBoard,
    Threads,
    Trackers,
    complete_model,
    tracked,
)


def distill(
    student: Annotated[
        str,
        typer.Argument(
            metavar="STUDENT",
            autocompletion=complete_model,
            help="Run folder, or model with float weights.",
        ),
    ],
    teacher: Annotated[
        str,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Model to imitate, of the same scale.",
        ),
    ],
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Recipe; default: distill-NETWORK."),
    ] = None,
    overrides: Overrides = None,
    iters: Iters = None,
    data: Photographs = None,
    run_dir: RunDir = None,
    resume: Resume = "auto",
    max_time: MaxTime = None,
    trackers: Trackers = None,
    tensorboard: TensorBoard = False,
    device: Device = "auto",
    threads: Threads = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Train a quantized or smaller model to imitate a teacher.

    Its outputs are compared with the teacher's, and its features if the recipe says so. Name a
    quantized student by its run folder, as its packed model cannot be trained.

    \b
    Examples:
      srq distill runs/edsr-x4-dobi-w4a4 --teacher edsr-baseline-x4
      srq distill runs/edsr-x4-pams-w2a2 --teacher edsr-baseline-x4 --iters 5000
      srq distill small.safetensors --teacher large.safetensors --data photos/
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.distill import DistillRequest, distill
    from sr_quant_cli.system.files import write_json
    from sr_quant_cli.system.processes import world

    ended = distill(
        DistillRequest(
            student=student,
            teacher=teacher,
            recipe=recipe,
            iters=iters,
            data=data,
            overrides=tuple(overrides or ()),
            run_dir=run_dir,
            resume=resume,
            max_time=max_time,
            trackers=tracked(trackers, tensorboard=tensorboard),
            device=device,
            threads=threads,
            data_root=data_root,
        )
    )
    if json is not None and world().rank == 0:
        write_json(json, ended.to_json())
