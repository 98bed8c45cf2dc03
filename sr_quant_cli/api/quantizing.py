"""Quantization from Python: by calibration alone, or as ``srq quantize`` does."""

import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sr_quant_cli.api.images import images_in, rgb_of
from sr_quant_cli.api.model import InMemory, Model, load_model
from sr_quant_cli.api.progress import ProgressCallback, quietly
from sr_quant_cli.errors import UsageError
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.modelfiles.named import Named
from sr_quant_cli.runtimes.registry import AUTO

if TYPE_CHECKING:
    from sr_quant_cli.recipe.load import Change

IMAGES = "images"
"""Name of a set of photographs that is made of images in memory."""

Width = int | str
"""Bits, 2 to 8, or levels such as ``"29L"``."""


def calibrate(
    model: Model | Named,
    images: Any,
    *,
    method: str | None = None,
    recipe: str | Path | None = None,
    w: Width | None = None,
    a: Width | None = None,
    placement: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    threads: int | None = None,
    progress: ProgressCallback | None = None,
) -> Model:
    """Quantize a model by calibration, without training and without HR pictures.

    Parameters
    ----------
    model
        A full-precision model, or what ``load_model`` takes. A method that starts from a network
        that another method quantized takes one that ``quantize`` made.
    images
        LR images as the model will get them: a folder, or images as ``upscale`` takes them,
        without alpha. Patches are drawn from them by the seed of the recipe.
    method
        Name of the method; None: that of the recipe.
    recipe
        Name or file of a recipe; None: the method's for the network; without a method ``deploy``,
        which puts every convolution on integers of 8 bits.
    w, a
        Bits of weights and activations, 2 to 8, or levels as ``"29L"``; None: those of the recipe.
    placement
        ``paper``: as in the method's paper; ``full``: every convolution.
    overrides
        Changes of recipe fields, as ``{"calibration.images": 8}``.
    threads
        CPU threads; None: one for each core.
    progress
        Called with a ``Progress``.

    Returns
    -------
    The quantized model, in memory.

    Raises
    ------
    TypeError, ValueError
        What is given as an image is none.
    UsageError
        The model, method, recipe or a field of it is not usable, or an image is smaller than a
        patch of the calibration.
    """
    import torch

    from sr_quant_cli.commands.calibrate import calibrate as run
    from sr_quant_cli.commands.calibrate import check_start, picture_batches
    from sr_quant_cli.commands.quantize_recipe import QuantizeRequest, resolve, run_name
    from sr_quant_cli.methods import build
    from sr_quant_cli.modelfiles.card import Card, TrainingRun
    from sr_quant_cli.system.device import set_threads
    from sr_quant_cli.training.run import portable

    begun = time.monotonic()
    with quietly(progress):
        set_threads(threads)
        given = _opened(model)
        content = given.content()
        name = content.card.name or given.name
        request = QuantizeRequest(
            method=method,
            recipe=None if recipe is None else str(recipe),
            w=w,
            a=a,
            placement=placement,
            iters=0,
            overrides=_changes(overrides),
        )
        resolved = resolve(request, content.network.config.model_dump(), name)
        check_start(name, content.network, build(resolved.method))
        pictures = [rgb_of(levels) for levels in images_in(images)]
        batches = list(picture_batches(pictures, resolved))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(resolved.recipe.seed)
            student = run(content.network, resolved, batches).student
    done = TrainingRun(
        task=resolved.recipe.task,
        steps=0,
        seconds=round(time.monotonic() - begun, 1),
        device="cpu",
        precision="fp32",
        data=IMAGES,
        photographs=len(pictures),
        started_from=name,
        recipe=portable(resolved),
    )
    card = Card(name=run_name(resolved, name), data=IMAGES, training=[*content.card.training, done])
    return _in_memory(InMemory(student.eval(), card))


def quantize(
    model: Model | Named | None,
    data: Any,
    *,
    method: str | None = None,
    recipe: str | Path | None = None,
    w: Width | None = None,
    a: Width | None = None,
    placement: str | None = None,
    iters: int | None = None,
    max_drop: float | None = None,
    overrides: Mapping[str, Any] | None = None,
    run_dir: str | Path | None = None,
    device: str = "auto",
    threads: int | None = None,
    data_root: str | Path | None = None,
    progress: ProgressCallback | None = None,
) -> Model:
    """Quantize a model as ``srq quantize`` does: calibrate, then train if the recipe has steps.

    Parameters
    ----------
    model
        A full-precision model, or what ``load_model`` takes; None: the embedded one.
    data
        HR photographs: a folder, the name of a set, or at least two images as ``upscale`` takes
        them, without alpha. A part of them is held out to validate on.
    method, recipe, w, a, placement, overrides, progress
        As for ``calibrate``.
    iters
        Training steps; None: those of the recipe; 0: calibrate only.
    max_drop
        Largest drop of PSNR by a calibration, dB: the sites that lose most keep higher precision.
    run_dir
        Run folder to keep, in which a stopped run goes on; None: a temporary one.
    device, threads
        As for ``load_model``.
    data_root
        Folder of the data sets; None: ``SRQ_DATA``, else ``datasets``.

    Returns
    -------
    The quantized model, in memory.

    Raises
    ------
    TypeError, ValueError
        What is given as an image is none.
    UsageError
        The model, data, method, recipe or a field of it is not usable.
    FailedError
        Training diverged, or the drop of PSNR cannot be limited as asked for.
    """
    import torch

    from sr_quant_cli.commands.quantize import quantize as run
    from sr_quant_cli.commands.quantize_recipe import QuantizeRequest
    from sr_quant_cli.data.store import packing_in
    from sr_quant_cli.modelfiles.modelfile import load_model as load_file
    from sr_quant_cli.training.run_folder import TRAINABLE

    with quietly(progress), ExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        start = scale = None
        if model is not None:
            given = _opened(model)
            start, scale = stack.enter_context(given.file(trainable=True)), given.wanted_scale
        photographs = data
        if not isinstance(data, str | Path):
            photographs = scratch / IMAGES
            _write(data, photographs)
            stack.enter_context(packing_in(scratch / "pairs"))
        stack.enter_context(torch.random.fork_rng(devices=[]))
        ended = run(
            QuantizeRequest(
                model=start,
                scale=scale,
                method=method,
                recipe=None if recipe is None else str(recipe),
                w=w,
                a=a,
                placement=placement,
                iters=iters,
                max_drop=max_drop,
                report=False,
                data=str(photographs),
                overrides=_changes(overrides),
                run_dir=scratch / "run" if run_dir is None else Path(run_dir),
                device=device,
                threads=threads,
                data_root=None if data_root is None else Path(data_root),
            )
        )
        network, header = load_file(ended.model.with_name(TRAINABLE))
        return _in_memory(InMemory(network, header.card))


def _opened(model: Model | Named) -> Model:
    return model if isinstance(model, Model) else load_model(model)


def _in_memory(content: InMemory) -> Model:
    return Model(content, RunOptions(runtime=AUTO))


def _write(images: Any, folder: Path) -> None:
    """Write photographs as files, one to train on and one to validate on at least."""
    from sr_quant_cli.imaging.io import write_rgb

    count = 0
    for levels in images_in(images):
        write_rgb(folder / f"{count:05}.png", rgb_of(levels))
        count += 1
    if count < 2:
        raise ValueError("needs two images or more: one of them is held out to validate on")


def _changes(overrides: Mapping[str, Any] | None) -> "tuple[Change, ...]":
    """Changes of a recipe by their keys.

    Raises
    ------
    UsageError
        A key is no path of a field.
    TypeError
        There is no mapping.
    """
    from sr_quant_cli.recipe.load import Change

    if not isinstance(overrides, Mapping | None):
        raise TypeError(f"overrides are a mapping, not {type(overrides).__name__}")
    changes = []
    for key, value in (overrides or {}).items():
        change = Change.of(str(key), value, "overrides", f"{key}={value!r}")
        if not change.parts:
            raise UsageError(f"{change.given}: must be section.key, as train.iters")
        changes.append(change)
    return tuple(changes)
