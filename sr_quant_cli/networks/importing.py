"""Checkpoints of other projects: which network a file holds, and its tensors under srq's names.

A layout is data: patterns of keys with what they are called here, and how the configuration is read
off the tensors. A file belongs to the layout whose patterns match every one of its keys. Files are
read as safetensors or with ``torch.load(weights_only=True)``; no code in them is run.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from sr_quant_cli.errors import UsageError
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.edsr import DIV2K_MEAN, EDSRConfig

Tensors = dict[str, Tensor]

_WRAPPERS = ("params_ema", "params", "state_dict")
"""Keys under which projects keep the weights, the best first."""


@dataclass(frozen=True)
class Layout:
    """How one project names the tensors of one network.

    Parameters
    ----------
    source
        Shown to the user.
    names
        Regular expressions of whole keys without ``.weight`` or ``.bias``, and what replaces them.
    config
        Configuration of a network from its tensors under srq's names.
    constants
        Keys, whole, of tensors that must have these values and are not kept.
    """

    source: str
    names: dict[str, str]
    config: Callable[[Tensors], NetworkConfig]
    constants: dict[str, Tensor] = field(default_factory=dict)

    def rename(self, key: str) -> str | None:
        """A key under srq's name; None: it is of another layout."""
        module, dot, kind = key.rpartition(".")
        for pattern, name in self.names.items():
            if match := re.fullmatch(pattern, module):
                return match.expand(name) + dot + kind
        return None


def _edsr(tensors: Tensors) -> EDSRConfig:
    blocks = {key.split(".")[1] for key in tensors if key.startswith("body.")}
    n_feats = len(tensors["head.weight"])
    shuffles = [t for key, t in sorted(tensors.items()) if re.match(r"upsampler\.\d\.weight", key)]
    direct = not shuffles
    enlarged = len(tensors["tail.0.weight"]) // 3 if direct else len(shuffles[0]) // n_feats
    factor = {4: 2, 9: 3, 16: 4}.get(enlarged, 0)
    return EDSRConfig.model_validate(
        {
            "scale": factor ** max(len(shuffles), 1),
            "n_blocks": len(blocks),
            "n_feats": n_feats,
            # No file says it; the published networks of 256 features have it.
            "res_scale": 0.1 if n_feats == 256 else 1.0,
            "upsampler": "direct" if direct else "shuffle",
            "mean_shift": not direct,
        }
    )


_MEAN = 255 * torch.tensor(DIV2K_MEAN)

LAYOUTS = (
    Layout(
        "EDSR-PyTorch",
        {
            r"head\.0": "head",
            r"body\.(\d+)\.body\.0": r"body.\1.conv1",
            r"body\.(\d+)\.body\.2": r"body.\1.conv2",
            r"body\.(\d+)": "body_last",
            r"tail\.0\.(\d+)": r"upsampler.\1",
            r"tail\.1": "tail",
        },
        _edsr,
        {
            "sub_mean.weight": torch.eye(3).view(3, 3, 1, 1),
            "sub_mean.bias": -_MEAN,
            "add_mean.weight": torch.eye(3).view(3, 3, 1, 1),
            "add_mean.bias": _MEAN,
        },
    ),
    Layout(
        "BasicSR EDSR",
        {
            r"conv_first": "head",
            r"body\.(\d+)\.conv([12])": r"body.\1.conv\2",
            r"conv_after_body": "body_last",
            r"upsample\.(\d+)": r"upsampler.\1",
            r"conv_last": "tail",
        },
        _edsr,
    ),
    Layout(
        "MLCommons mobile EDSR",
        {
            r"head": "head",
            r"body\.(\d+)\.0": r"body.\1.conv1",
            r"body\.(\d+)\.1": r"body.\1.conv2",
            r"body_tail": "body_last",
            r"up": "tail.0",
        },
        _edsr,
    ),
)
"""Layouts that are known, in the order in which they are tried."""


def import_checkpoint(path: Path) -> tuple[Network, str]:
    """Read a checkpoint of another project: the network, in evaluation mode, and the layout.

    Raises
    ------
    UsageError
        The file cannot be read without running code, is of no known layout, or has tensors too
        many, too few, or of another shape than its network.
    """
    tensors = _read(path)
    for layout in LAYOUTS:
        renamed = {key: layout.rename(key) for key in tensors if key not in layout.constants}
        if renamed and None not in renamed.values():
            return _build(path, layout, tensors, renamed), layout.source
    known = ", ".join(layout.source for layout in LAYOUTS)
    first = ", ".join(sorted(tensors)[:3])
    raise UsageError(f"{path}: its tensors ({first}, ...) are of no known layout: {known}")


def _build(path: Path, layout: Layout, tensors: Tensors, renamed: dict[str, str | None]) -> Network:
    for key, constant in layout.constants.items():
        if key in tensors and not torch.allclose(tensors[key].float(), constant, atol=1e-3):
            raise UsageError(f"{path}: {key} is not the mean colour that {layout.source} fixes")
    ours = {str(name): tensors[key].float() for key, name in renamed.items()}
    try:
        network = build(layout.config(ours))
        network.load_state_dict(ours)
    except (RuntimeError, ValueError, KeyError) as error:
        detail = " ".join(str(error).split())[:200]
        raise UsageError(f"{path} does not fit a network of {layout.source}: {detail}") from error
    return network.eval()


def _read(path: Path) -> Tensors:
    """Tensors of a file, out of the dictionaries that projects wrap them in."""
    if not path.is_file():
        raise UsageError(f"no such checkpoint: {path}")
    try:
        loaded = (
            load_file(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged pickle may raise any of many
        raise UsageError(f"{path} cannot be read without running code, or is damaged") from error
    for wrapper in _WRAPPERS:
        if isinstance(loaded, dict) and isinstance(loaded.get(wrapper), dict):
            loaded = loaded[wrapper]
    if not isinstance(loaded, dict) or not all(isinstance(t, Tensor) for t in loaded.values()):
        raise UsageError(f"{path} holds no dictionary of tensors")
    return {key.removeprefix("module."): tensor for key, tensor in loaded.items()}
