"""``srq bench`` and ``srq bench train``."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from sr_quant_cli.cli.options import (
    DataRoot,
    Depth,
    Device,
    Json,
    Overrides,
    Threads,
    complete_model,
    own_file,
    width,
)
from sr_quant_cli.system.choices import PrecisionChoice

MOST_TIMED = 10_000
"""largest number of timed runs or steps"""


class _UpscaleIsMeant(TyperGroup):
    """``srq bench FILE`` is ``srq bench upscale FILE``, ``srq bench --help`` its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args or args[0] not in self.commands:
            args = ["upscale", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=_UpscaleIsMeant,
    help="Time runtimes, or training steps (srq bench train).",
    rich_markup_mode=None,
)


@app.command()
def upscale(
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL",
            autocompletion=complete_model,
            help="Names, srq models, run folders; default: embedded.",
        ),
    ] = None,
    size: Annotated[
        list[str] | None,
        typer.Option(metavar="WxH", help="LR pixels; repeatable.  [default: 320x180]"),
    ] = None,
    scale: Annotated[
        int | None, typer.Option(help="Scale of the models; default: their own, else 4.")
    ] = None,
    runs: Annotated[
        int, typer.Option(min=1, max=MOST_TIMED, help="Timed runs of each variant.")
    ] = 7,
    depth: Depth = "full",
    threads: Annotated[
        list[int] | None,
        typer.Option(min=1, max=512, help="CPU threads; default: one for each core; repeatable."),
    ] = None,
    memory: Annotated[
        bool,
        typer.Option(
            "--memory", help="Also the peak memory of each variant, in a process of its own."
        ),
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(metavar="FILE", callback=own_file("csv"), help="Also write the table as CSV."),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", callback=own_file("markdown"), help="Also write the table as Markdown."
        ),
    ] = None,
    json: Json = None,
) -> None:
    """Time the enlargement of a whole picture in every runtime, in turns.

    Float models run in each precision that the processor has, folded and unfolded; quantized ones
    run simulated and on integers. The first row, to which the others are compared, is the first
    model in torch, run as the papers' code runs it. Bit operations are counted, all else is
    measured. See 'srq bench train' for training steps.

    \b
    Examples:
      srq bench
      srq bench --size 640x360 --threads 2 --json speed.json
      srq bench edsr-baseline-x2 edsr-baseline-x2-w29a6
      srq bench runs/full.safetensors runs/w4a4.safetensors --runs 15
      srq bench --size 320x180 --size 640x360 --threads 1 --threads 2 --csv speed.csv
      srq bench --memory --markdown speed.md
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.bench_upscale import BenchRequest, bench_upscale
    from sr_quant_cli.report.bench import print_upscale_times, upscale_markdown
    from sr_quant_cli.system.files import check_outputs, write_csv, write_json, write_markdown

    check_outputs({"csv": csv, "markdown": markdown, "json": json}, models or ())
    timings = bench_upscale(
        BenchRequest(
            models=tuple(models or ()),
            sizes=tuple(dict.fromkeys(size or BenchRequest.sizes)),
            runs=runs,
            threads=tuple(dict.fromkeys(threads or ())),
            memory=memory,
            depth=depth,
            scale=scale,
        )
    )
    print_upscale_times(timings)
    if csv is not None:
        write_csv(csv, *timings.to_csv())
    if markdown is not None:
        write_markdown(markdown, upscale_markdown(timings))
    if json is not None:
        write_json(json, timings.to_json())


@app.command()
def kernels(
    size: Annotated[str, typer.Option(metavar="WxH", help="Pixels.")] = "320x180",
    channels: Annotated[
        int, typer.Option(help="Input and output channels, a multiple of 16 up to 256.")
    ] = 64,
    runs: Annotated[int, typer.Option(min=1, max=MOST_TIMED, help="Timed runs.")] = 7,
    json: Json = None,
) -> None:
    """Time one 3x3 convolution of srq's own kernels, with every instruction set of the processor.

    \b
    Examples:
      srq bench kernels
      srq bench kernels --channels 128 --json kernels.json
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.bench_kernels import bench_kernels
    from sr_quant_cli.commands.bench_upscale import parse_size
    from sr_quant_cli.report.bench import print_kernel_times
    from sr_quant_cli.system.files import write_json

    timings = bench_kernels(*parse_size(size), channels, runs)
    print_kernel_times(timings)
    if json is not None:
        write_json(json, timings.to_json())


@app.command()
def train(
    network: Annotated[str, typer.Option(help="Network to train.")] = "edsr",
    scale: Annotated[int, typer.Option(help="Enlargement factor: 2, 3, 4 or 8.")] = 4,
    method: Annotated[
        str | None,
        typer.Option(help="Time fake-quantized steps of this method beside full-precision ones."),
    ] = None,
    w: Annotated[str | None, typer.Option(metavar="BITS", help="As for 'srq quantize'.")] = None,
    a: Annotated[str | None, typer.Option(metavar="BITS", help="As for 'srq quantize'.")] = None,
    placement: Annotated[
        Literal["paper", "full"] | None, typer.Option(help="As for 'srq quantize'.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Patches a step; default: the recipe's.")
    ] = None,
    patch: Annotated[
        int | None, typer.Option(min=1, help="Side of an LR patch; default: the recipe's.")
    ] = None,
    steps: Annotated[
        int, typer.Option(min=1, max=MOST_TIMED, help="Timed steps of each variant.")
    ] = 10,
    data: Annotated[
        str,
        typer.Option(
            metavar="DIR|NAME",
            help="Folder, DIV2K, Flickr2K, DF2K, sample, or several: DIV2K+Flickr2K.",
        ),
    ] = "sample",
    recipe: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Recipe; default: pretrain-NETWORK or METHOD-NETWORK."
        ),
    ] = None,
    overrides: Overrides = None,
    precision: Annotated[
        PrecisionChoice | None,
        typer.Option(help="As train.precision; default: the recipe's."),
    ] = None,
    device: Device = "auto",
    threads: Threads = None,
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Time training steps, data loading included, beside those of a plain loop.

    The plain loop trains as the papers' code does, in float32 with torch's defaults. With --method,
    fake-quantized steps are timed beside full-precision ones instead. Variants take turns, a step
    each. Nothing is saved but decoded photographs in the cache.

    \b
    Examples:
      srq bench train
      srq bench train --network edsr --scale 2 --batch 4 --patch 24 --steps 30
      srq bench train --data photos/ --precision bf16 --json speed.json
      srq bench train --method pams --w 4 --a 4 --batch 4
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.bench_train import BenchTrainRequest, bench_train
    from sr_quant_cli.report.bench import print_training_times
    from sr_quant_cli.system.files import write_json

    timings = bench_train(
        BenchTrainRequest(
            network=network,
            recipe=recipe,
            method=method,
            w=width(w),
            a=width(a),
            placement=placement,
            scale=scale,
            batch=batch,
            patch=patch,
            precision=precision,
            steps=steps,
            data=data,
            overrides=tuple(overrides or ()),
            device=device,
            threads=threads,
            data_root=data_root,
        )
    )
    print_training_times(timings)
    if json is not None:
        write_json(json, timings.to_json())
