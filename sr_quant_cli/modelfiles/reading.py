"""Tensors of checkpoint files: none of their code is run, and memory is bounded by their size."""

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
from sr_quant_cli.networks.limits import TENSORS, VALUES, check_tensors

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
"""Keys under which projects store weights, in order of preference."""

PREFIXES = re.compile(r"^(?:(?:module|model|net|netG|_orig_mod)\.)+")
"""Prefixes that wrappers of a network add to the names of its tensors."""

READS = (
    "srq reads its own model files, PyTorch's checkpoints (.pt, .pth, .ckpt, .safetensors) and "
    ".onnx; srq upscale and srq eval run OpenVINO's .xml, too"
)

_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"II*\0", b"MM\0*")
_MAGIC = {
    b"version https://git-lfs": "a Git LFS pointer; 'git lfs pull' gets the file itself",
    b"7767517": "a network of ncnn; convert the model that it was made from to ONNX",
    b"\x89HDF": "an HDF5 file, as Keras writes; convert it to ONNX",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"7z\xbc\xaf": "a 7-Zip archive; unpack it",
    b"%PDF": "a PDF document",
    **dict.fromkeys(_PICTURES, "a picture"),
}
"""Kinds of files by their first bytes."""
_TFLITE = "a TensorFlow Lite graph; convert it to ONNX"
GRAPH = "a graph, for srq upscale and srq eval; here, name the model that it was made from"
"""What a graph file is that cannot be read as a network."""
_SUFFIXES = {
    ".onnx": GRAPH,
    ".tflite": _TFLITE,
    ".pb": "a TensorFlow graph; convert it to ONNX",
    ".mlmodel": "a network of Core ML; convert it to ONNX",
    ".engine": "an engine of TensorRT; name the model that it was built from",
}
_BEGINNING = 512
"""Bytes that are read to recognize a file."""


class UnknownCheckpointError(UsageError):
    """A file that cannot be read, or whose layout is unknown."""


class _PassedOver:
    """Substitute for objects beside the weights that srq does not use, such as NumPy scalars."""

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, _: object) -> None:
        pass


_BESIDE: list[Any] = [
    (_PassedOver, name)
    for core in ("numpy.core", "numpy._core")
    for name in (f"{core}.multiarray.scalar", f"{core}.multiarray._reconstruct")
] + [(_PassedOver, name) for name in ("numpy.dtype", "numpy.ndarray", "argparse.Namespace")]
"""Names that pickles may contain; they are replaced, so that none of them is called."""


def describe_file(path: Path) -> str:
    """Kind of a file that holds no tensors; empty if it may hold some."""
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
        return GRAPH
    if text.isascii() and text.replace(b"\n", b"").decode("ascii").isprintable():
        return "a text file"
    return _SUFFIXES.get(path.suffix.lower(), "")


def _describe_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except Exception:  # a damaged archive may raise any exception
        return "cut short or damaged"
    names = [entry.filename for entry in entries]
    if any(name.endswith("/constants.pkl") or "/code/" in name for name in names):
        return "TorchScript, which is code; save the state_dict of the model instead"
    if not any(name.endswith("/data.pkl") for name in names):
        return "a ZIP archive; unpack it"
    if sum(entry.file_size for entry in entries) > path.stat().st_size:
        return "compressed, which PyTorch does not write; unpack it and save it again"
    return ""


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, without the dictionaries and prefixes of wrappers.

    Raises
    ------
    UnknownCheckpointError
        The file is no checkpoint, or cannot be read without running code.
    UsageError
        The file is missing, too large, or holds values that are not finite.
    """
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {path}")
    if what := describe_file(path):
        raise UnknownCheckpointError(f"{path} is {what}" + (what != GRAPH) * f". {READS}")
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
        if len(tensors) == TENSORS:
            raise UsageError(f"{path} holds more than {TENSORS:,} tensors")
        try:
            check_tensors({name: tensor})
        except ValueError as error:
            raise UsageError(f"{path}: {error}") from error
        if name in tensors and not torch.equal(tensors[name], tensor):
            raise UsageError(f"{path}: {key} differs from another tensor named {name}")
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
    except Exception as error:  # a damaged pickle may raise any exception
        needed = re.search(r"GLOBAL (\S+)", str(error))
        why = "cannot be read without running code: it asks for " + needed[1] if needed else ""
        raise UnknownCheckpointError(
            f"{path} {why or 'is damaged, cut short, or no checkpoint'}. {READS}"
        ) from error


def _unwrapped(loaded: Any) -> Mapping[Any, Any]:
    """Innermost dictionary of those that projects wrap weights in."""
    while isinstance(loaded, Mapping):
        inner = [loaded[key] for key in WRAPPERS if isinstance(loaded.get(key), Mapping)]
        deeper = next((each for each in inner if each), None)
        if deeper is None:
            return loaded
        loaded = deeper
    return {type(loaded).__name__: loaded}
