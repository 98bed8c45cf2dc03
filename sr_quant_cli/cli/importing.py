"""``srq import``."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from sr_quant_cli.report.terminal import say

_RANGES: dict[str, Literal[1, 255]] = {"1": 1, "255": 255}


def import_(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", help="Checkpoint: .pt, .pth, .safetensors.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Model file; default: FILE's name here."
        ),
    ] = None,
    scale: Annotated[
        int | None,
        typer.Option(
            min=2, max=4, help="Of a FILE that does not say it, or holds several; default: 4."
        ),
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="daq, whose checkpoints do not say that they are quantized.")
    ] = None,
    w: Annotated[
        int | None, typer.Option(min=2, max=8, help="Bits of weights of a quantized FILE.")
    ] = None,
    a: Annotated[
        int | None, typer.Option(min=2, max=8, help="Bits of activations of a quantized FILE.")
    ] = None,
    res_scale: Annotated[
        float | None,
        typer.Option(
            "--res-scale",
            help="Factor on an EDSR's residual branches; default: 0.1 of 256 features, else 1.",
        ),
    ] = None,
    range_: Annotated[
        Literal["1", "255"] | None,
        typer.Option(
            "--range", help="Largest value of the pictures that it was trained on; default: 255."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name shown in tables.")] = None,
    licence: Annotated[str, typer.Option(help="Licence of the weights.")] = "",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the model file.")] = False,
) -> None:
    """Turn a checkpoint of another project into an srq model file.

    Of EDSR-PyTorch, BasicSR (EDSR, MSRResNet), CARN-pytorch, IDN, SwinIR, DAQ, PAMS, DDTB, CADyQ,
    2DQuant and QuantSR. Network, scale and sizes are found from names and shapes, nothing may be
    missing or left over, and no code in the file is run. What a file does not say is assumed and
    told; a sample picture shows whether the network enlarges better than bicubic.

    \b
    Examples:
      srq import edsr_baseline_x4.pt -o edsr-x4.safetensors
      srq import carn_m.pth --scale 3 -o carn_m-x3.safetensors
      srq import pams_edsr.pth --w 4 --a 4 -o edsr-x4-pams.safetensors
      srq import daq_edsr.pt --method daq --w 2 --a 2
      srq import my_edsr.pth --res-scale 0.1 --range 1
    """  # noqa: D301 - typer's \b keeps the line breaks
    import torch

    from sr_quant_cli.errors import UsageError
    from sr_quant_cli.lowering.verify import beside_bicubic
    from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint
    from sr_quant_cli.modelfiles.modelfile import Card, save_model
    from sr_quant_cli.modelfiles.named import identify
    from sr_quant_cli.runtimes.torch import TorchRuntime
    from sr_quant_cli.system.files import check_outputs
    from sr_quant_cli.system.reporting import warn

    target = output or Path(f"{checkpoint.stem}.safetensors")
    check_outputs({"output": target}, [checkpoint])
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; use `overwrite` to replace it")
    if checkpoint.exists() and identify(checkpoint).is_model_file:
        raise UsageError(f"{checkpoint} is an srq model file already")
    hints = UserHints(scale, method, w, a, res_scale, None if range_ is None else _RANGES[range_])
    network, source, assumed = import_checkpoint(checkpoint, hints)
    save_model(target, network, Card(name=name or checkpoint.stem, licence=licence, source=source))
    how = network.quantization
    bits = f" {how.method.name} {how.bits}" if how else ""
    say(f"{checkpoint} ({source}) -> {target}  {network.config.name} x{network.scale}{bits}")
    if assumed:
        say(f"assumed: {', '.join(assumed)}")
    psnr, bicubic = beside_bicubic(TorchRuntime(network, torch.device("cpu")), network.scale)
    if psnr < bicubic:
        causes = [*assumed, "the scale"] if scale is not None else assumed
        because = f"is {' or '.join(causes)} the reason?" if causes else "was it ever trained?"
        warn(
            f"{target} is worse than bicubic on a sample picture ({psnr:.2f} dB against "
            f"{bicubic:.2f}): {because}"
        )
