"""Scores of models on benchmark sets and on images in memory."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sr_quant_cli.api.images import images_in, rgb_of
from sr_quant_cli.api.model import Model, checked_name
from sr_quant_cli.api.progress import ProgressCallback, quietly
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.named import Named

if TYPE_CHECKING:
    from sr_quant_cli.commands.evaluate import Evaluation

IMAGES = "images"
"""Name of the set that is made of images in memory."""

AnyModel = Model | Named


def evaluate(
    models: AnyModel | Sequence[AnyModel] = (),
    bench: str | Path | Sequence[Any] = "Set5+Set14+B100+Urban100",
    *,
    scale: int | None = None,
    protocol: str = "matlab",
    degrade: str = "",
    runtime: str | None = None,
    device: str = "auto",
    threads: int | None = None,
    data_root: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> "Evaluation":
    """Score models by PSNR and SSIM, with bicubic in the first row, as ``srq eval`` does.

    Parameters
    ----------
    models
        Models, or what ``load_model`` takes; none: the embedded model. The depth and the
        self-ensemble of a ``Model`` count, which all models must share; its runtime does not.
    bench
        Names of sets, joined by ``+``; a folder of HR pictures; or HR images as ``upscale`` takes
        them, without alpha, whose LR is made by bicubic.
    scale
        Scale of all rows; None: the models' own, else 4.
    protocol
        ``matlab``, ``basicsr``, ``rgb``, ``div2k``, ``daq`` or ``cadyq``, see docs/measuring.md.
    degrade
        Degradations of the LR pictures, such as ``noise:5,jpeg:75``; empty: none.
    runtime
        Runtime of the models; None: torch, the reference, and for a graph file its own.
    device, threads
        As for ``load_model``.
    data_root
        Folder of the data sets; None: ``SRQ_DATA``, else ``datasets``.
    progress
        Called with a ``Progress`` for every picture.

    Raises
    ------
    TypeError, ValueError
        What is given as an image is none.
    UsageError
        A model, set or protocol is not usable, or scales differ.

    Examples
    --------
    >>> import numpy as np
    >>> import sr_quant_cli as srq
    >>> edge = np.zeros((48, 48, 3), np.uint8)
    >>> edge[:, 24:] = 255
    >>> scores = srq.evaluate("fast", [edge])
    >>> [row.label for row in scores.results], scores.scale
    (['bicubic', 'edsr-small-x4-w8a8'], 4)
    >>> bool(scores.results[1].psnr > scores.results[0].psnr)
    True
    """
    from sr_quant_cli.commands.evaluate import EvalRequest
    from sr_quant_cli.commands.evaluate import evaluate as run

    given = [models] if isinstance(models, Model | str | Path) else list(models)
    kinds = {
        (each.options.depth, each.options.self_ensemble)
        if isinstance(each, Model)
        else ("full", False)
        for each in given
    }
    if len(kinds) > 1:
        raise UsageError("models of different depth or self-ensemble: evaluate them one by one")
    depth, self_ensemble = kinds.pop() if kinds else ("full", False)
    wanted = (each.wanted_scale for each in given if isinstance(each, Model))
    scale = scale or next(filter(None, wanted), None)
    root = None if data_root is None else Path(data_root)
    with quietly(progress), ExitStack() as stack:
        files = [_file(each, stack) for each in given]
        if isinstance(bench, Path):
            if not bench.is_dir():
                raise UsageError("there is no such folder", field="bench", value=bench)
            bench = str(bench.resolve())
        elif not isinstance(bench, str):
            root = Path(stack.enter_context(TemporaryDirectory()))
            _write_images(bench, root / IMAGES)
            bench = IMAGES
        return run(
            EvalRequest(
                models=tuple(files),
                bench=bench,
                scale=scale,
                protocol=protocol,
                degrade=degrade,
                runtime=runtime,
                device=device,
                threads=threads,
                depth=depth,
                self_ensemble=self_ensemble,
                data_root=root,
            )
        )


def _file(model: AnyModel, stack: ExitStack) -> Named:
    if isinstance(model, Model):
        return stack.enter_context(model.file())
    return checked_name(model)


def _write_images(images: Any, folder: Path) -> None:
    from sr_quant_cli.imaging.io import write_rgb

    for index, levels in enumerate(images_in(images)):
        write_rgb(folder / f"{index:04}.png", rgb_of(levels))
