"""``srq pretrain``."""

from typing import Annotated

import typer

from sr_quant_cli.cli.options import (
    DataRoot,
    Device,
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


def pretrain(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK", help="Network to train; 'srq recipes networks' lists all."
        ),
    ],
    scale: Annotated[
        int | None, typer.Option(help="Enlargement factor: 2, 3, 4 or 8; default: the recipe's.")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(metavar="NAME|FILE", help="Recipe; default: pretrain-NETWORK."),
    ] = None,
    overrides: Overrides = None,
    data: Photographs = None,
    run_dir: RunDir = None,
    resume: Resume = "auto",
    init: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Model of any scale to start from.",
        ),
    ] = None,
    max_time: MaxTime = None,
    trackers: Trackers = None,
    tensorboard: TensorBoard = False,
    device: Device = "auto",
    threads: Threads = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Train a full-precision network.

    The run folder holds the resolved recipe, the log (log.jsonl), checkpoints, and at the end
    model.safetensors: the averaged weights with the best validation PSNR. Run the same command
    again to continue a run that was stopped or killed. 'srq runs show RUN' draws its curves.

    \b
    Examples:
      srq pretrain edsr --scale 4
      srq pretrain edsr --scale 2 --data photos/ --set train.batch=8 --max-time 2h
      srq pretrain edsr --scale 4 --init runs/edsr-x2/model.safetensors
      srq pretrain edsr --recipe runs/edsr-x4/recipe.toml --run runs/again
      torchrun --nproc-per-node 2 -m sr_quant_cli pretrain edsr --scale 4
      srq pretrain edsr --data sample --set train.iters=100 --set data.patch_hr=96
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.pretrain import PretrainRequest, pretrain
    from sr_quant_cli.system.files import write_json
    from sr_quant_cli.system.processes import world

    ended = pretrain(
        PretrainRequest(
            network=network,
            scale=scale,
            data=data,
            recipe=recipe or f"pretrain-{network}",
            overrides=tuple(overrides or ()),
            run_dir=run_dir,
            resume=resume,
            init=init,
            max_time=max_time,
            device=device,
            threads=threads,
            data_root=data_root,
            trackers=tracked(trackers, tensorboard=tensorboard),
        )
    )
    if json is not None and world().rank == 0:
        write_json(json, ended.to_json())
