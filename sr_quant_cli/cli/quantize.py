"""``srq quantize``."""

from typing import Annotated, Literal

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
    width,
)


def quantize(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Full-precision model, or run folder of an earlier stage; default: embedded.",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Method; 'srq recipes methods' lists all."),
    ] = None,
    w: Annotated[
        str | None,
        typer.Option(metavar="BITS", help="Bits of weights, 2 to 8, or levels: 29L is -14..14."),
    ] = None,
    a: Annotated[
        str | None,
        typer.Option(metavar="BITS", help="Bits of activations, 2 to 8, or levels, as 29L."),
    ] = None,
    placement: Annotated[
        Literal["paper", "full"] | None,
        typer.Option(
            help="paper: as in the method's paper; full: every convolution, for deployment. A "
            "different placement replaces the recipe's whole [sites] table."
        ),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Recipe; default: METHOD-NETWORK, without a method deploy-NETWORK or deploy.",
        ),
    ] = None,
    overrides: Overrides = None,
    iters: Iters = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            metavar="DB",
            help="Largest drop of PSNR on held-out photographs by a calibration: the sites that "
            "lose most keep higher precision.",
        ),
    ] = None,
    report: Annotated[
        bool | None,
        typer.Option(
            "--report/--no-report",
            help="Measure the finished model for deployment; default: as the recipe says.",
        ),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Scale of the model: 2, 3, 4 or 8; default: its own, else 4.")
    ] = None,
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
    """Quantize a model to 2 to 8 bits.

    Calibrates on training photographs, and then trains if the recipe has training steps (--iters 0:
    calibration only). Without a method, recipe deploy quantizes any network for deployment: every
    convolution on integers of 8 bits. The run folder has the files of 'srq pretrain'; its
    model.safetensors holds packed codes, its trainable.safetensors the float weights behind them.
    Methods that start from a quantized network (cadyq: PAMS at 8 bits; cabm: cadyq) make it first,
    unless MODEL is one. These stages are kept in the folder stages beside the run folder, and all
    runs share them.

    \b
    Examples:
      srq quantize model.safetensors --data photos/
      srq quantize model.safetensors --data photos/ --max-drop 0.05
      srq quantize --method daq --w 2 --a 2
      srq quantize --method minmax --w 4 --a 4 --data photos/
      srq quantize runs/edsr-x4/model.safetensors --method pams --w 4 --a 4 --iters 2000
      srq quantize --method 2dquant --w 4 --a 4 --placement full --data sample
      srq quantize --method dobi --w 4 --a 4 --set sites.upsampler=int8
      srq quantize --method dobi --w 29L --a 6 --placement full
      srq quantize --method cadyq --data photos/ --iters 20000
      srq quantize runs/edsr-x4-cadyq-w8a8 --method cabm --data photos/
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.quantize import quantize
    from sr_quant_cli.commands.quantize_recipe import QuantizeRequest
    from sr_quant_cli.report.quantize import print_deployment
    from sr_quant_cli.system.files import write_json
    from sr_quant_cli.system.processes import world

    ended = quantize(
        QuantizeRequest(
            model=model,
            scale=scale,
            method=method,
            recipe=recipe,
            w=width(w),
            a=width(a),
            placement=placement,
            iters=iters,
            max_drop=max_drop,
            report=report,
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
    if ended.report is not None:
        print_deployment(ended.report)
    if json is not None and world().rank == 0:
        write_json(json, ended.to_json())
