"""``srq report`` and ``srq plot``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sr_quant_cli.cli.options import DataRoot, Json, complete_model

Sources = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN|MODEL|JSON...",
        autocompletion=complete_model,
        help="Run folders, study folders, models, and JSON reports of 'srq eval' and 'srq bench'.",
    ),
]


def report(
    sources: Sources,
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FILE", help="Page to write.")
    ] = Path("report.html"),
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Super-resolution models",
    image: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="LR picture to show; default: one that srq carries."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers/--no-layers", help="Measure layers of quantized models.")
    ] = True,
    sensitivity: Annotated[
        bool,
        typer.Option("--sensitivity", help="Also what each layer loses alone; takes minutes."),
    ] = False,
    data: Annotated[
        str, typer.Option(metavar="DIR|NAME", help="Photographs to measure layers on.")
    ] = "sample",
    data_root: DataRoot = None,
    json: Json = None,
) -> None:
    """Write a page about models and runs, which needs no network.

    Quality against bits, size, time and bit operations; training curves; a picture before and
    after; histograms of every layer with its bounds and levels; recipes, history and protocols.

    \b
    Examples:
      srq report edsr-baseline-x4 edsr-baseline-x4-w29a6 -o report.html
      srq report runs/edsr-x4-pams-w4a4 scores.json speed.json --image photo.png
      srq report mine.safetensors --sensitivity --data photos/
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands import report as core
    from sr_quant_cli.commands.gather import count_models
    from sr_quant_cli.report.page import write_page
    from sr_quant_cli.report.terminal import say
    from sr_quant_cli.system.files import HTML_PAGE, check_outputs, check_own, write_json

    check_outputs({"output": output, "json": json}, [*sources, image])
    check_own(output, HTML_PAGE)
    made = core.report(
        core.ReportRequest(
            named=tuple(sources),
            image=image,
            layers=layers,
            sensitivity=sensitivity,
            data=data,
            data_root=data_root,
        )
    )
    write_page(made, output, title)
    count = count_models(made.subjects)
    models = f"{count} model{'s' * (count != 1)}"
    say(f"{output}: {models}, {output.stat().st_size / 1e6:.1f} MB")
    if json is not None:
        write_json(json, made.to_json())


def plot(
    sources: Sources,
    output: Annotated[
        Path,
        typer.Option("--output", "-o", metavar="FILE", help="PNG, SVG or PDF file to write."),
    ],
    x: Annotated[
        Literal["bits", "bytes", "ms", "bitops", "step"],
        typer.Option(help="Cost to draw against; step: training curves."),
    ] = "bits",
    y: Annotated[Literal["psnr", "ssim"], typer.Option(help="Quality.")] = "psnr",
    bench: Annotated[
        str | None, typer.Option(help="Set; default: the one that most models have scores on.")
    ] = None,
) -> None:
    """Draw quality against cost, or training curves, for papers.

    \b
    Examples:
      srq plot edsr-baseline-x4 edsr-baseline-x4-w29a6 scores.json -o quality.svg --x bytes
      srq plot runs/edsr-x4 runs/edsr-x4-pams-w4a4 -o curves.pdf --x step
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.commands.gather import gather
    from sr_quant_cli.imaging.sheet import check_sheet
    from sr_quant_cli.report.plots import draw
    from sr_quant_cli.report.terminal import say
    from sr_quant_cli.system.files import check_outputs

    check_sheet(output, "plot")
    check_outputs({"output": output}, sources)
    draw(gather(sources), output, x, y, bench)
    say(str(output))
