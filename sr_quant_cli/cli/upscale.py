"""``srq upscale``."""

import re
from typing import Annotated, Any, Literal

import typer

from sr_quant_cli.cli.options import (
    GRAPHS,
    Depth,
    Device,
    Json,
    MaxPixels,
    Patch,
    Patchwise,
    Precision,
    Range,
    Runtime,
    SelfEnsemble,
    Step,
    Threads,
    complete_model,
    rectangle,
)
from sr_quant_cli.cli.upscaling import carry_out, factors, quick_imports
from sr_quant_cli.errors import UsageError

GROUPS = {
    "Size": ("scale", "width", "height", "fit", "max_side", "region", "max_pixels"),
    "Output": (
        *("output", "suffix", "format_", "quality", "lossless", "strip", "frames", "overwrite"),
        *("preview", "bit_map", "json"),
    ),
    "Many pictures": ("recursive", "skip_existing", "dry_run"),
    "Model": ("model", "depth", "self_ensemble", "range_", "patchwise", "patch", "step"),
    "Running": ("runtime", "device", "precision", "threads", "tile"),
}
"""groups of the options in the help text"""

_LONGEST_SIDE = 10**6
"""largest width and height that can be asked for"""


def _name(text: str) -> str:
    """Refuse an empty name, which an empty shell variable leaves."""
    if not text:
        raise typer.BadParameter("the name is empty")
    return text


def _box(text: str) -> tuple[int, int]:
    """Read a size, such as 1920x1080."""
    found = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
    if found is None or max(int(found[1]), int(found[2])) > _LONGEST_SIDE:
        raise UsageError(
            f"must be WIDTHxHEIGHT, as 1920x1080, and at most {_LONGEST_SIDE} pixels a side",
            field="fit",
            value=text,
        )
    return int(found[1]), int(found[2])


def _rectangle(text: str) -> tuple[int, int, int, int]:
    return rectangle(text, "region")


def upscale(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER",
            parser=_name,
            help="Pictures, folders, patterns such as 'photos/*.jpg', or - for standard input.",
        ),
    ],
    scale: Annotated[
        Any,
        typer.Option(
            metavar="F|FxF",
            parser=factors,
            help="Factor up to 16, as 2.5; of width and height, as 1.5x1; default 4, or that of "
            "the model.",
        ),
    ] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=_LONGEST_SIDE,
            metavar="PIXELS",
            help="Width of the result; the height follows, unless it is given, too.",
        ),
    ] = None,
    height: Annotated[
        int | None,
        typer.Option(
            min=1, max=_LONGEST_SIDE, metavar="PIXELS", help="Height of the result; as --width."
        ),
    ] = None,
    fit: Annotated[
        Any, typer.Option(metavar="WxH", parser=_box, help="Largest result within this box.")
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(min=1, max=_LONGEST_SIDE, metavar="PIXELS", help="Longer side of the result."),
    ] = None,
    region: Annotated[
        Any,
        typer.Option(
            metavar="X,Y,W,H",
            parser=_rectangle,
            help="Enlarge this rectangle of the input only, in its pixels.",
        ),
    ] = None,
    max_pixels: MaxPixels = "1G",
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="OUT",
            parser=_name,
            help="File, folder (also OUT/), or - for standard output; default: beside the input.",
        ),
    ] = None,
    suffix: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT", help="Text after the names of the inputs; default: the size, as _x4."
        ),
    ] = None,
    format_: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="png, jpg, webp, tiff, avif, or another one that libvips writes here; default: "
            "by the name of OUT, else png.",
        ),
    ] = None,
    quality: Annotated[
        int | None,
        typer.Option(min=1, max=100, help="Quality of lossy formats; default 95 or 90."),
    ] = None,
    lossless: Annotated[
        bool, typer.Option("--lossless", help="Lossless WebP, AVIF or JPEG XL.")
    ] = False,
    strip: Annotated[
        bool, typer.Option("--strip", help="Drop all metadata; colours become sRGB.")
    ] = False,
    frames: Annotated[
        Literal["all", "first"],
        typer.Option(help="Frames of animations and pages to enlarge."),
    ] = "all",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    recursive: Annotated[
        bool,
        typer.Option(
            "--recursive", "-r", help="Enter subfolders; results lie in folders of the same names."
        ),
    ] = False,
    skip_existing: Annotated[
        bool,
        typer.Option(
            "--skip-existing", help="Leave out what is done, to go on after an interruption."
        ),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be done, and do nothing.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            autocompletion=complete_model,
            help="clean, photo (for JPEG blocks and noise), fast, or another name from 'srq models "
            f"list'; srq file, checkpoint, {GRAPHS}, or run folder; default: photo for compressed "
            "JPEG, else clean.",
        ),
    ] = None,
    depth: Depth = "full",
    self_ensemble: SelfEnsemble = False,
    range_: Range = None,
    patchwise: Patchwise = False,
    patch: Patch = None,
    step: Step = None,
    preview: Annotated[
        bool,
        typer.Option(
            "--preview",
            help="Draw a part before and after, as IMAGE_x4_preview.png beside the output.",
        ),
    ] = False,
    bit_map: Annotated[
        bool,
        typer.Option(
            "--bit-map",
            help="Draw a map of the chosen bits, as IMAGE_x4_bits.png beside the output.",
        ),
    ] = False,
    runtime: Runtime = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    tile: Annotated[
        int | None, typer.Option(min=1, help="Pixels per side of a tile; default: by memory.")
    ] = None,
    json: Json = None,
) -> None:
    """Enlarge pictures.

    Results lie beside the inputs, as NAME_x4.png, or in OUT. In a folder, hidden files, subfolders
    and enlargements (NAME_x4.png beside NAME) are skipped. If photo.jpg and photo.png are both
    there, the second becomes photo.png_x4.png.

    \b
    Examples:
      srq upscale photo.jpg
      srq upscale photo.jpg --scale 2.5 -o large.webp
      srq upscale photo.jpg --width 1920 --format jpg --quality 90
      srq upscale photo.jpg --region 40,20,64,48 -o part.png
      srq upscale holiday/ --recursive -o enlarged/ --skip-existing
      srq upscale 'holiday/*.jpg' --max-side 400 --suffix _wall --dry-run
      srq upscale - < photo.png > large.png
      srq upscale photo.jpg --model fast -o fast.png --preview
      srq upscale photo.png --self-ensemble -o best.tif
      srq upscale photo.png --model runs/edsr-x4/model.safetensors -o mine.png
      srq upscale photo.png --model dynamic.safetensors --patchwise --bit-map
      torchrun --nproc-per-node 2 -m sr_quant_cli upscale holiday/
    """  # noqa: D301 - typer's \b keeps the line breaks
    with quick_imports():
        from sr_quant_cli.commands.batch import BatchOptions
        from sr_quant_cli.commands.enlarge import PictureOptions
        from sr_quant_cli.commands.sizes import SizeRequest
        from sr_quant_cli.commands.upscale import UpscaleRequest
        from sr_quant_cli.imaging.formats import SaveOptions
        from sr_quant_cli.imaging.tiling import Region, patches_of
        from sr_quant_cli.inference.options import RunOptions

    picture = PictureOptions(
        save=SaveOptions(format_, quality, lossless or None),
        strip=strip,
        frames=frames,
        region=region and Region(region[1], region[0], region[3], region[2]),
    )
    request = UpscaleRequest(
        inputs=tuple(inputs),
        output=output,
        recursive=recursive,
        suffix=suffix,
        skip_existing=skip_existing,
        dry_run=dry_run,
        model=model,
        batch=BatchOptions(
            size=SizeRequest(scale, width, height, fit, max_side),
            picture=picture,
            overwrite=overwrite,
            bit_map=bit_map,
            preview=preview,
            max_pixels=max_pixels,
        ),
        options=RunOptions(
            runtime=runtime,
            device=device,
            precision=precision,
            threads=threads,
            depth=depth,
            tile=tile,
            patches=patches_of(patchwise, patch, step),
            self_ensemble=self_ensemble,
            range=None if range_ is None else int(range_),
        ),
    )
    carry_out(request, json)
