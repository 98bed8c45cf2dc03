"""Tensors out of checkpoint files: no code in them is run, and memory goes by the file's size."""

import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from sr_quant_cli.errors import UsageError
from sr_quant_cli.networks.limits import VALUES, check_tensors

WRAPPERS = (
    "params_ema",
    "state_dict_ema",
    "ema",
    "params",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "netG",
    "generator",
)
"""Keys under which projects keep the weights, the best first."""

PREFIXES = re.compile(r"^(?:(?:module|model|net|netG|_orig_mod)\.)+")
"""What wrappers of a network put in front of the names of its tensors."""

READS = (
    "srq reads its own model files and PyTorch's checkpoints (.pt, .pth, .ckpt, .safetensors); "
    "srq upscale and srq eval run .onnx and OpenVINO's .xml, too"
)

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer; 'git lfs pull' gets the file itself",
    b"7767517": "a network of ncnn; convert the model that it was made of to ONNX",
    b"\x89HDF": "an HDF5 file, as Keras writes; convert it to ONNX",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"%PDF": "a PDF document",
    **dict.fromkeys(_PICTURES, "a picture"),
}
"""How files begin, and what they are."""
_TFLITE = "a TensorFlow Lite graph; convert it to ONNX"
_GRAPH = "a graph; srq upscale and srq eval run it, here name the model that it was made of"
_SUFFIXES = {
    ".onnx": _GRAPH,
    ".tflite": _TFLITE,
    ".pb": "a TensorFlow graph; convert it to ONNX",
    ".mlmodel": "a network of Core ML; convert it to ONNX",
    ".engine": "an engine of TensorRT; name the model that it was built of",
}
_BEGINNING = 512
"""Bytes that tell what a file is."""


class UnknownCheckpointError(UsageError):
    """The file is nothing that can be read, or of no known layout."""


class _PassedOver:
    """Stands for an object beside the weights that srq has no use for, as a scalar of NumPy."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_BESIDE: list[Any] = [
    (_PassedOver, name)
    for core in ("numpy.core", "numpy._core")
    for name in (f"{core}.multiarray.scalar", f"{core}.multiarray._reconstruct")
] + [(_PassedOver, name) for name in ("numpy.dtype", "numpy.ndarray", "argparse.Namespace")]
"""Classes and functions of pickles that a stranger's file may name: nothing of them is called."""


def describe_file(path: Path) -> str:
    """What a file is that holds no tensors; empty: it may hold some."""
    with path.open("rb") as file:
        begin = file.read(_BEGINNING)
    if not begin:
        return "empty"
    for magic, what in _MAGIC.items():
        if begin.startswith(magic):
            return what
    if begin[4:8] == b"TFL3":
        return _TFLITE
    if begin.startswith(b"PK\x03\x04"):
        return _describe_zip(path)
    text = begin.lstrip().lower()
    if text.startswith((b"<!doctype html", b"<html")):
        return "an HTML page, perhaps in the place of a download"
    if path.suffix.lower() == ".xml" and b"<net" in text:
        return _GRAPH
    if text.isascii() and text.replace(b"\n", b"").decode("ascii").isprintable():
        return "a text file"
    return _SUFFIXES.get(path.suffix.lower(), "")


def _describe_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # a damaged archive may raise any of many
        return "cut short or damaged"
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "TorchScript, which is code; save the state_dict of the model instead"
    if not any(name.endswith("/data.pkl") for name in names):
        return "a ZIP archive; unpack it"
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        return "compressed, as PyTorch does not write; unpack and save it anew"
    return ""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint, out of the dictionaries and without the prefixes of wrappers.

    Raises
    ------
    UnknownCheckpointError
        It is no such file, or cannot be read without running code.
    UsageError
        It is not there, or holds something else than plain tensors of finite numbers.
    """
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {path}")
    if what := describe_file(path):
        raise UnknownCheckpointError(f"{path} is {what}" + (what != _GRAPH) * f". {READS}")
    state = _unwrapped(_load(path))
    tensors: dict[str, Tensor] = {}
    values = 0
    for key, tensor in state.items():
        if not isinstance(tensor, Tensor):
            continue
        name = PREFIXES.sub("", str(key))
        values += tensor.numel()
        if values > 4 * VALUES:
            raise UsageError(f"{path} is too large: more than {4 * VALUES:,} values")
        try:
            check_tensors({name: tensor})
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error
        if name in tensors and not torch.equal(tensors[name], tensor):
            raise UsageError(f"{path}: {key} differs from another tensor of the name {name}")
        tensors[name] = tensor
    if not tensors:
        found = ", ".join(str(key)[:40] for key in list(state)[:5]) or "nothing"
        raise UnknownCheckpointError(f"{path} holds no dictionary of tensors, but {found}. {READS}")
    return tensors


def _load(path: Path) -> Any:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings(), torch.serialization.safe_globals(_BESIDE):
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle may raise any of many
        needed = re.search(r"GLOBAL (\S+)", str(error))
        why = "cannot be read without running code: it asks for " + needed[1] if needed else ""
        raise UnknownCheckpointError(
            f"{path} {why or 'is damaged, cut short, or no checkpoint'}. {READS}"
        ) from error


def _unwrapped(loaded: Any) -> Mapping[Any, Any]:
    """The innermost dictionary of those that projects wrap weights in."""
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        deeper = next((each for each in inner if each), None)
        if deeper is None:
            return loaded
        loaded = deeper
    return {type(loaded).__name__: loaded}
