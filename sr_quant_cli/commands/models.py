"""``srq models``: models that have names, embedded and the user's."""

import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sr_quant_cli.errors import FailedError, SrqError, UsageError, nearest
from sr_quant_cli.inference.choice import (
    choose,
    keep_shipped_seconds,
    measured_seconds,
    shipped_seconds,
)
from sr_quant_cli.inference.graph_cache import kept, prepare
from sr_quant_cli.inference.opening import open_model, shipped_program
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.modelfiles.catalog import NamedModel, describe, named_models
from sr_quant_cli.modelfiles.loading import load
from sr_quant_cli.modelfiles.named import (
    FAMILIES,
    Named,
    Source,
    embedded_models,
    identify,
    model_suffixes,
    user_model,
    user_models,
    without_suffix,
)
from sr_quant_cli.runtimes.registry import AUTO, is_graph, runtime_of
from sr_quant_cli.system.files import replacing, user_models_dir
from sr_quant_cli.system.reporting import track, warn

_NAME = re.compile(r"[^\W_][\w.+-]{0,99}")
_ROUNDS = 5

PICTURE = "picture of 101x73 LR pixels, one thread, fastest runtime"
"""How the times of models are measured."""


@dataclass(frozen=True)
class ModelList:
    """Models that have names; ``folder`` is the user's."""

    models: tuple[NamedModel, ...]
    folder: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {"models": [model.to_json() for model in self.models], "folder": str(self.folder)}


@dataclass(frozen=True)
class AddRequest:
    """Request for ``add_model``.

    Attributes
    ----------
    model
        What ``identify`` finds a model by.
    name
        Name to give it; None: that of its file or run folder.
    overwrite
        Replace a model of the user's that has this name.
    """

    model: Named
    name: str | None = None
    overwrite: bool = False


def list_models(*, measure: bool = False) -> ModelList:
    """List the models that have names, without loading any.

    Times are those that the choice of the runtime left in the cache.

    Parameters
    ----------
    measure
        Measure the models that have no time yet, which takes seconds for each.

    Raises
    ------
    UsageError
        The user's folder cannot be read.
    """
    models = named_models()
    followed = track(models, len(models), "model", "timing") if measure else models
    return ModelList(
        tuple(
            model if model.problem else _with_cached(model, measure=measure) for model in followed
        ),
        user_models_dir(),
    )


def show_model(named: Named) -> NamedModel:
    """Describe a model that the user names.

    Raises
    ------
    UsageError
        There is no such model, or its header is damaged.
    """
    source = identify(named)
    model = describe(without_suffix(source.path.name), source)
    if model.problem:
        raise UsageError(model.problem)
    return _with_cached(model)


def add_model(request: AddRequest) -> NamedModel:
    """Copy a model into the user's folder, where it has a name; nothing is run but the model.

    Raises
    ------
    UsageError
        The file is no model that srq runs, or the name is taken or is none.
    FailedError
        The file cannot be copied.
    """
    source = identify(request.model)
    name = request.name if request.name is not None else _usual_name(request.model, source)
    replaced = _check_name(name, overwrite=request.overwrite)
    _check_model(source)
    suffix = source.path.suffix.lower()
    if suffix not in model_suffixes():
        suffix = ".safetensors" if source.is_model_file else ".pt"
    target = user_models_dir() / f"{name}{suffix}"
    old = {file for path in replaced for file in _files(path)}
    # The file that has the name comes last: it never stands there without what belongs to it.
    for file in reversed(_files(source.path)):
        copy = target.with_name(f"{name}{suffix if file == source.path else file.suffix}")
        if copy.exists() and copy.samefile(file):
            raise UsageError(f"{file} is there already")
        with replacing(copy) as temporary:
            shutil.copyfile(file, temporary)
            if source.kind == "checkpoint":
                _check_renamed(source.path, temporary)
        old.discard(copy)
    _delete(old)
    return describe(name, identify(target))


def remove_model(name: str) -> Path:
    """Remove a model from the user's folder, and return the path that it had.

    Raises
    ------
    UsageError
        The folder has no model of that name.
    FailedError
        It cannot be removed.
    """
    if name in (*embedded_models(), *FAMILIES):
        raise UsageError(f"{name} is a part of srq and cannot be removed")
    path = user_model(name)
    if path is None:
        near = nearest(name, user_models())
        raise UsageError(f"no model in {user_models_dir()}: {name}{near and f';{near}'}")
    _delete(_files(path))
    return path


def _usual_name(named: Named, source: Source) -> str:
    folder = Path(named)
    if folder.is_dir():
        return folder.resolve().name
    return without_suffix(source.path.name)


def _check_name(name: str, *, overwrite: bool) -> list[Path]:
    """Refuse a name that is none or taken; return the user's files that it would replace."""
    if not _NAME.fullmatch(name) or without_suffix(name) != name:
        raise UsageError(
            "must be letters, digits, '.', '+', '-' and '_', without the suffix of a model file",
            field="name",
            value=name,
        )
    if name in (*embedded_models(), *FAMILIES):
        raise UsageError(
            "is the name of an embedded model; choose another one", field="name", value=name
        )
    taken = user_models().get(name, [])
    if taken and not overwrite:
        raise UsageError(
            f"is taken by {taken[0]}; use `overwrite` to replace it", field="name", value=name
        )
    return taken


def _check_model(source: Source) -> None:
    """Refuse a file that srq does not run, by opening it."""
    if source.kind != "graph":
        load(source)
        return
    open_model(source, RunOptions(runtime=AUTO))
    if others := _external_files(source.path):
        raise UsageError(
            f"{source.path}: its weights are in {', '.join(others[:3])}; save it as one file"
        )


def _check_renamed(original: Path, copy: Path) -> None:
    """Refuse a copy that reads differently: some checkpoints have their scale in their name."""
    from sr_quant_cli.modelfiles.checkpoints import UserHints, import_checkpoint

    try:
        same = import_checkpoint(copy, UserHints())[0].scale
        kept_scale = same == import_checkpoint(original, UserHints())[0].scale
    except UsageError:
        kept_scale = False
    if not kept_scale:
        raise UsageError(
            f"the name {original.name} says the scale, and {copy.stem} does not: keep the name, or "
            "make a model file of it with 'srq import'"
        )


def _external_files(path: Path) -> list[str]:
    """Files that an ONNX graph keeps weights in."""
    if path.suffix.lower() != ".onnx":
        return []
    import onnx  # slow to import

    graph = onnx.load(path, load_external_data=False).graph
    outside = [
        tensor for tensor in graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    return sorted(
        {entry.value for t in outside for entry in t.external_data if entry.key == "location"}
    )


def _files(path: Path) -> list[Path]:
    """Files of a model, the one that has the name first."""
    beside = runtime_of(path).beside if is_graph(path) else ()
    return [path, *(path.with_suffix(suffix) for suffix in beside)]


def _delete(files: Sequence[Path] | set[Path]) -> None:
    try:
        for file in files:
            file.unlink(missing_ok=True)
    except OSError as error:
        raise FailedError(f"cannot remove {error.filename}: {error.strerror}") from error


def _with_cached(model: NamedModel, *, measure: bool = False) -> NamedModel:
    """Add the time on this machine, and the scale of a file that is not srq's, where known."""
    source = Source(model.path, model.kind)
    try:
        if measure and model.kind != "graph":
            _measure_network(source)
        scale, seconds = _known(source)
        if measure and seconds is None:
            scale, seconds = _measure(source)
    except SrqError as error:
        warn(f"{model.name}: {error}")
        return model
    return replace(
        model,
        scale=scale or model.scale,
        milliseconds=None if seconds is None else round(1000 * seconds, 2),
    )


def _measure_network(source: Source) -> None:
    """Measure a model by what enlarges pictures with it, and keep the time in the cache."""
    if shipped_program(source, RunOptions(runtime=AUTO)) is None:
        choose(prepare(source), "auto")
    elif shipped_seconds(source) is None:
        keep_shipped_seconds(source, _measure(source)[1])


def _known(source: Source) -> tuple[int | None, float | None]:
    """Scale of a model and its time in seconds, as far as the cache and its graph say them."""
    if source.kind == "graph":
        from sr_quant_cli.lowering.graph import traits_of  # slow to import

        traits = traits_of(source.path)
        return (None if traits is None else traits.scale), None
    prepared, seconds = kept(source), shipped_seconds(source)
    if prepared is None:
        return None, seconds
    return prepared.traits.scale, measured_seconds(prepared) if seconds is None else seconds


def _measure(source: Source) -> tuple[int, float]:
    """Scale, and the shortest of several runs on the picture by which runtimes are chosen."""
    from sr_quant_cli.lowering.samples import sample_pairs  # slow to import

    upscaler = open_model(source, RunOptions(runtime=AUTO, threads=1))
    _, lr, _ = sample_pairs(2)[0]
    seconds = []
    for _ in range(_ROUNDS):
        start = time.perf_counter()
        upscaler(lr)
        seconds.append(time.perf_counter() - start)
    return upscaler.scale, min(seconds)
