"""The ONNX graph of a network: float, or with QuantizeLinear and DequantizeLinear around integers."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import onnx
import torch
from onnxscript import opset18 as op
from torch import Tensor, nn

from sr_quant_cli.lowering.integer import OnPixels
from sr_quant_cli.networks.base import Network

OPSET = 18
"""Of the files written: what ONNX Runtime and OpenVINO have read for years."""

Io = Literal["float", "uint8"]
"""float: RGB 0..1 ``[1, 3, h, w]``, unclipped; uint8: RGB pixels ``[1, h, w, 3]``."""


def to_onnx(network: Network, io: Io) -> onnx.ModelProto:
    """Trace a network in evaluation mode: ``lr`` -> ``sr``, height and width free.

    Parameters
    ----------
    network
        As ``lower`` gives it, or float; it is changed where ``io`` is uint8.
    """
    example, (rows, columns) = torch.rand(1, 3, 32, 24), (2, 3)
    module: nn.Module = network.eval()
    if io == "uint8":
        example, (rows, columns) = torch.zeros(1, 32, 24, 3, dtype=torch.uint8), (1, 2)
        module = OnPixels(network).eval()
    free = {rows: torch.export.Dim("h", min=2), columns: torch.export.Dim("w", min=2)}
    with warnings.catch_warnings(), _quiet("torch.onnx"):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=["lr"],
            output_names=["sr"],
            dynamic_shapes={"x": free},
            custom_translation_table={
                torch.ops.srq.fake_quantize.default: _fake_quantize,
                torch.ops.srq.dequantize.default: _dequantize,
                torch.ops.srq.to_pixels.default: _to_pixels,
            },
        )
    assert program is not None
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Keep a logger from telling what is no concern of the user's."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _fake_quantize(x: Tensor, step: Tensor, zero: Tensor, last: int) -> Tensor:
    codes = op.QuantizeLinear(x, step, zero)
    if last < 255:
        # A clip of codes: one of floats would keep the runtimes from fusing what is around it.
        first = op.CastLike(op.Constant(value_int=0), zero)
        codes = op.Clip(codes, first, op.CastLike(op.Constant(value_int=last), zero))
    return op.DequantizeLinear(codes, step, zero)


def _dequantize(codes: Tensor, step: Tensor) -> Tensor:
    return op.DequantizeLinear(codes, step, axis=0)


def _to_pixels(x: Tensor) -> Tensor:
    zero = op.Cast(op.Constant(value_int=0), to=onnx.TensorProto.UINT8)
    return op.QuantizeLinear(x, op.Constant(value_float=1 / 255), zero)
