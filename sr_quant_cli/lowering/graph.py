"""Graph files: ONNX or OpenVINO IR, with what srq says of them in their metadata entry ``srq``."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import onnx

from sr_quant_cli import __version__
from sr_quant_cli.errors import UsageError
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.system.files import replacing

GRAPHS = (".onnx", ".xml")
"""Suffixes of graph files."""


def describe(model: onnx.ModelProto, traits: ModelTraits, **further: Any) -> None:
    """Write the metadata entry of a graph: traits and whatever else is known of it."""
    text = json.dumps({"version": __version__, "facts": asdict(traits), **further})
    model.producer_name, model.producer_version = "srq", __version__
    onnx.helper.set_model_props(model, {"srq": text})


def traits_of(path: Path) -> ModelTraits | None:
    """What a graph file says of its network; None: it is not srq's.

    Raises
    ------
    UsageError
        There is no such file, or it says what cannot be understood.
    """
    if not path.is_file():
        raise UsageError(f"no such model file: {path}")
    text = _xml_entry(path) if path.suffix.lower() == ".xml" else _onnx_entry(path)
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
    """Write ONNX, or (``.xml``) OpenVINO IR with its ``.bin`` beside it, each moved into place.

    Raises
    ------
    FailedError
        The file cannot be written.
    """
    if path.suffix.lower() != ".xml":
        with replacing(path) as temporary:
            temporary.write_bytes(model.SerializeToString())
        return
    import openvino

    weights = path.with_suffix(".bin")
    graph = openvino.Core().read_model(model.SerializeToString())
    if (text := _entry(model.metadata_props)) is not None:
        graph.set_rt_info(text, "srq")
    # The weights first: an .xml never names weights that are not there.
    with replacing(weights) as bin_, replacing(path) as xml:
        openvino.serialize(graph, xml, bin_)


def _entry(properties: Any) -> str | None:
    entries: Mapping[str, str] = {entry.key: entry.value for entry in properties}
    return entries.get("srq")


def _onnx_entry(path: Path) -> str | None:
    try:
        return _entry(onnx.load(path, load_external_data=False).metadata_props)
    except Exception as error:  # protobuf's errors are of several kinds
        raise UsageError(f"{path} is no readable ONNX file") from error


def _xml_entry(path: Path) -> str | None:
    import openvino

    try:
        graph = openvino.Core().read_model(path)
    except RuntimeError as error:
        raise UsageError(f"{path} is no readable OpenVINO network") from error
    return str(graph.get_rt_info("srq").astype(str)) if graph.has_rt_info("srq") else None
