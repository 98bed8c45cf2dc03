"""Small pictures and networks that several test modules use."""

from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.upscaler import Upscaler
from sr_quant_cli.modelfiles.named import identify
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network, NetworkConfig
from sr_quant_cli.networks.carn import CARN, CARNConfig
from sr_quant_cli.networks.edsr import EDSR, EDSRConfig
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.networks.quantsr import QuantSRC, QuantSRCConfig
from sr_quant_cli.networks.quantsr_t import QuantSRT, QuantSRTConfig
from sr_quant_cli.networks.swinir import SwinIR, SwinIRConfig
from sr_quant_cli.quant.sites import Site
from sr_quant_cli.system.processor import has_vnni


def tiny_edsr(scale: int = 2, seed: int = 0) -> EDSR:
    """A network small enough for tests, with weights that make its output vary."""
    torch.manual_seed(seed)
    network = build(EDSRConfig(scale=scale, n_blocks=2, n_feats=8))
    assert isinstance(network, EDSR)
    return network.eval()


def onnx_session(graph: bytes | Path, *, as_written: bool = False) -> onnxruntime.InferenceSession:
    """Open a graph in ONNX Runtime: on its integer kernels, where their sums do not saturate.

    ``as_written``: every operation as it is defined, with float biases, which kernels round.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    if as_written or not has_vnni():
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    content = graph if isinstance(graph, bytes) else str(graph)
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def open_path(path: Path, **options) -> Upscaler:
    """Open a model file, graph or checkpoint; the options are those of ``RunOptions``."""
    return open_model(identify(path), RunOptions(**options))


SMALL_SWINIR = {"embed_dim": 8, "layers": [2, 2], "heads": [2, 2], "window": 4}
"""Two groups of a layer with and one without shift."""


def tiny_swinir(scale: int = 2, seed: int = 0, **changes) -> SwinIR:
    """A small network whose weights are large enough for windows to show."""
    torch.manual_seed(seed)
    network = build(SwinIRConfig(scale=scale, **(SMALL_SWINIR | changes)))
    assert isinstance(network, SwinIR)
    return spread(network)


def ranked_quantsr_t(scale: int = 2, **changes) -> QuantSRT:
    """A small network that runs at all its depths."""
    torch.manual_seed(0)
    network = build(QuantSRTConfig(scale=scale, **(SMALL_SWINIR | changes)))
    assert isinstance(network, QuantSRT)
    spread(network).rank_blocks([torch.rand(2, 3, 8, 8)])
    return network


def spread(network: SwinIR) -> SwinIR:
    """Give a fresh network larger weights inside its layers, and biases."""
    for name, parameter in network.named_parameters():
        if ".layers." in name:
            parameter.data += 0.2 * torch.randn_like(parameter)
    return network.eval()


class BlockConfig(NetworkConfig):
    """Configuration of a network that no user has."""

    name: Literal["block"] = "block"


class Block(Network):
    """A block of a transformer on 16 tokens of 8 features, without norms, between convolutions."""

    def __init__(self, config):
        super().__init__(config)
        self.head = nn.Conv2d(3, 8, 3, padding=1)
        self.q, self.k, self.v, self.proj = (nn.Linear(8, 8) for _ in range(4))
        self.scores, self.mix = MatMul(), MatMul()
        self.fc1, self.fc2 = nn.Linear(8, 16), nn.Linear(16, 8)
        self.tail = nn.Sequential(nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2))

    def declared_sites(self):
        return (
            Site("head", "head", 3),
            *(Site(path, "linear", 8) for path in ("q", "k", "v")),
            Site("scores", "matmul", 8),
            Site("mix", "matmul", 16, unsigned=True),
            Site("proj", "linear", 8),
            Site("fc1", "linear", 8),
            Site("fc2", "linear", 16, after_gelu=True),
            Site("tail.0", "upsampler", 8),
        )

    def features(self):
        return {}

    def forward(self, x):
        features = self.head(x)
        tokens = features.flatten(2).mT
        attention = self.scores(self.q(tokens), self.k(tokens).mT * 2).softmax(dim=-1)
        tokens = tokens + self.proj(self.mix(attention, self.v(tokens)))
        tokens = tokens + self.fc2(nn.functional.gelu(self.fc1(tokens)))
        return self.tail(tokens.mT.unflatten(2, features.shape[2:]))


def tiny_carn() -> CARN:
    """CARN-M of 8 features in groups of 4, whose blocks share their layers."""
    torch.manual_seed(0)
    network = build(CARNConfig(scale=2, n_feats=8, groups=2, shared=True)).eval()
    assert isinstance(network, CARN)
    return network


def tiny_block() -> Block:
    """The block, with weights that make its output vary."""
    torch.manual_seed(3)
    return Block(BlockConfig(scale=2)).eval()


def ranked_quantsr_c(
    scale: int = 2, n_blocks: int = 4, n_feats: int = 4, variant: str = "corrected"
) -> QuantSRC:
    """A small network that runs at all its depths."""
    torch.manual_seed(0)
    network = build(
        QuantSRCConfig(scale=scale, n_blocks=n_blocks, n_feats=n_feats, variant=variant)
    )
    assert isinstance(network, QuantSRC)
    network.rank_blocks([torch.rand(2, 3, 8, 8)])
    return network.eval()


def picture(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """A picture with smooth shapes and texture: uint8 ``[height, width, 3]``."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [
        127 + 90 * np.sin(x / (3 + 2 * c) + y / (5 + c) + random.uniform(0, 6)) for c in range(3)
    ]
    noise = random.normal(0, 8, (height, width, 3))
    return np.clip(np.stack(waves, axis=2) + noise, 0, 255).astype(np.uint8)


def nearest_onnx(path, channels=3, inputs=1, outputs=("y",)):
    """A x2 nearest-neighbour network: one convolution, ``c``, and a DepthToSpace, ``y``."""
    weight = np.zeros((4 * channels, channels, 1, 1), np.float32)
    for block in range(4):
        weight[block * channels : (block + 1) * channels, :, 0, 0] = np.eye(channels)
    shape = ["n", channels, "h", "w"]
    names = [f"x{i}" for i in range(inputs)]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", [names[0], "w"], ["c"]),
            helper.make_node("DepthToSpace", ["c"], ["y"], blocksize=2, mode="DCR"),
        ],
        "nearest",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in names],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in outputs],
        [numpy_helper.from_array(weight, "w")],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path
    )
    return path
