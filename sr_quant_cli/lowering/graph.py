"""Graph files, with what srq knows of them in their metadata entry ``srq``.

ONNX is written and read here, other formats by the runtimes whose own they are.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from sr_quant_cli import __version__
from sr_quant_cli.errors import UsageError
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.runtimes.registry import runtime_of
from sr_quant_cli.system.files import replacing


def describe(model: onnx.ModelProto, traits: ModelTraits, **further: Any) -> None:
    """Write the metadata entry of a graph: traits and whatever else is known of it."""
    text = json.dumps({"version": __version__, "facts": asdict(traits), **further})
    model.producer_name, model.producer_version = "srq", __version__
    onnx.helper.set_model_props(model, {"srq": text})


def traits_of(path: Path) -> ModelTraits | None:
    """Read the traits of its network from a graph file; None: it is not srq's.

    Raises
    ------
    UsageError
        There is no such file, or it says what cannot be understood.
    """
    if not path.is_file():
        raise UsageError(f"no such model file: {path}")
    if path.suffix.lower() == ".onnx":
        text = _onnx_entry(path)
    else:
        text = runtime_of(path).load().metadata(path)
    if text is None:
        return None
    try:
        values = json.loads(text)["facts"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"{path}: what it says of itself is no metadata of this srq") from error
    try:
        return ModelTraits.of(values)
    except ValueError as error:
        raise UsageError(f"{path}: its metadata entry srq: {error}") from error


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a graph in the format that the suffix stands for, and move it into place.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    content = model.SerializeToString()
    if path.suffix.lower() != ".onnx":
        runtime_of(path).load().write(content, path, _entry(model.metadata_props))
        return
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _entry(properties: Any) -> str | None:
    entries: Mapping[str, str] = {entry.key: entry.value for entry in properties}
    return entries.get("srq")


def _onnx_entry(path: Path) -> str | None:
    try:
        return _entry(onnx.load(path, load_external_data=False).metadata_props)
    except Exception as error:  # protobuf's errors are of several kinds
        raise UsageError(f"{path} is no readable ONNX file") from error
