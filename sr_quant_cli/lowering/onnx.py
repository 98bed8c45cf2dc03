"""ONNX graphs of networks, float or with quantize and dequantize operations."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from io import StringIO
from typing import Any, Literal

import onnx
import onnx_ir as ir
import torch
from onnx_ir.passes.common import (
    CommonSubexpressionEliminationPass,
    DeduplicateInitializersPass,
    IdentityEliminationPass,
    LiftConstantsToInitializersPass,
    NameFixPass,
    RemoveUnusedNodesPass,
)
from onnxscript import FLOAT, INT8, UINT8, opset18
from onnxscript.optimizer import fold_constants, inline
from onnxscript.rewriter import pattern, rewrite
from onnxscript.rewriter.rules import common as rules
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.onnx import OnnxExporterError

from sr_quant_cli.errors import FailedError, first_line
from sr_quant_cli.lowering.integer import OnFloats, OnPixels
from sr_quant_cli.lowering.program import trace, without_decomposition
from sr_quant_cli.lowering.repeats import (
    UnrepeatableError,
    copy_repeats,
    enter_all,
    stand_in,
)
from sr_quant_cli.networks.base import Network
from sr_quant_cli.networks.folding import ExactBorder

op: Any = opset18
OPSET = 18
"""Operator set of the files, which ONNX Runtime and OpenVINO have read for years."""

Io = Literal["float", "unrounded", "uint8"]
"""float: RGB 0..1 ``[1, 3, h, w]``, rounded to 8 bits if the last convolution runs on integers;
unrounded: the same in full precision; uint8: RGB pixels ``[1, h, w, 3]``."""


def least_side(network: Network) -> int:
    """Smallest side in LR pixels of a picture that the graph of a network takes."""
    least = (m.least for m in network.modules() if isinstance(m, ExactBorder))
    return max([2, network.least_side, *least])


def to_onnx(network: Network, io: Io) -> onnx.ModelProto:
    """Trace a network in evaluation mode: ``lr`` -> ``sr``, with free height and width.

    If bits follow the picture, the chosen ones are a second output, ``bits``: float32 ``[1, L]``.

    Parameters
    ----------
    network
        Float, or from ``lower``; it is changed.

    Raises
    ------
    FailedError
        The network has operations that ONNX does not have.
    """
    least = least_side(network)
    module: nn.Module
    if io != "uint8":
        module = OnFloats(network, rounded=io == "float")
        example, (rows, columns) = torch.rand(1, 3, least + 30, least + 22), (2, 3)
    else:
        pixels = torch.zeros(1, least + 30, least + 22, 3, dtype=torch.uint8)
        module, example, (rows, columns) = OnPixels(network), pixels, (1, 2)
    free = {rows: Dim("h", min=least), columns: Dim("w", min=least)}
    names = ["sr"] if network.bit_provider is None else ["sr", "bits"]
    if network.bit_provider is None:  # otherwise blocks choose bits as they run
        stand_in(module)
    with warnings.catch_warnings(), _quiet(), _translated(network):
        warnings.simplefilter("ignore")
        program = _program(module.eval(), example, free, names)
        try:
            copy_repeats(program.model.graph, module)
        except UnrepeatableError:
            enter_all(module)
            program = _program(module, example, free, names)
        _simplify(program.model)
    model: onnx.ModelProto = program.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    return model


def _program(
    module: nn.Module, example: Tensor, free: Mapping[int, Dim], output_names: list[str]
) -> torch.onnx.ONNXProgram:
    """Trace a module and translate it, with one trace where that suffices."""
    traced = trace(module, example, free)
    try:
        return _translate(without_decomposition(traced), output_names)
    except OnnxExporterError:  # an operation without a translation
        return _translate(traced, output_names)


def _translate(traced: ExportedProgram, output_names: list[str]) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(
        traced,
        dynamo=True,
        optimize=False,
        verbose=False,
        opset_version=OPSET,
        input_names=["lr"],
        output_names=output_names,
        custom_translation_table={
            torch.ops.srq.fake_quantize.default: _fake_quantize,
            torch.ops.srq.dequantize.default: _dequantize,
            torch.ops.srq.to_pixels.default: _to_pixels,
            torch.ops.srq.enlarge_bicubic.default: _enlarge_bicubic,
            torch.ops.aten.aminmax.default: _aminmax,
            torch.ops.aten.movedim.int: _movedim,
            torch.ops.aten.rsub.Scalar: _rsub,
            torch.ops.aten.square.default: _square,
            torch.ops.aten.to.dtype: _to_dtype,
            torch.ops.aten.to.dtype_layout: _to_dtype_layout,
        },
    )
    assert program is not None
    return program


def _simplify(model: ir.Model) -> None:
    """Simplify a translated graph in place.

    As the optimization of ``torch.onnx.export``, but without rules that find nothing in networks:
    one of them takes half a minute for a transformer.
    """
    RemoveUnusedNodesPass()(model)
    inline(model)
    DeduplicateInitializersPass()(model)
    for _ in range(2):
        fold_constants(model, onnx_shape_inference=True)
        rewrite(model, _RULES)
    for simplify in (
        LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        DeduplicateInitializersPass(),
        CommonSubexpressionEliminationPass(),
        IdentityEliminationPass(),
        NameFixPass(),
    ):
        simplify(model)


@contextmanager
def _translated(network: Network) -> Iterator[None]:
    """Turn whatever the exporter raises into one line."""
    try:
        yield
    except Exception as error:  # of torch.export, torch.onnx and onnxscript, without a common base
        cause = first_line(error.__cause__ or error)
        raise FailedError(f"{network.config.name} does not become a graph: {cause}") from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence messages of torch that do not concern the user, in its log and on stderr."""
    logger = logging.getLogger("torch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with redirect_stderr(StringIO()):
            yield
    finally:
        logger.setLevel(before)


def _fake_quantize(
    x: FLOAT,
    step: FLOAT,
    zero: UINT8,
    bounds: UINT8 | None,
    least: UINT8 | None,
    step_out: FLOAT,
) -> FLOAT:
    codes = op.QuantizeLinear(x, step, zero)
    if bounds is not None:
        # A clip of codes: one of floats would keep the runtimes from fusing what is around it.
        first, last = (op.Gather(bounds, op.Constant(value_int=place)) for place in (0, 1))
        codes = op.Clip(codes, first, last)
    if least is not None:
        codes = op.Max(codes, least)
    y: FLOAT = op.DequantizeLinear(codes, step_out, zero)
    return y


def _dequantize(codes: INT8, step: FLOAT, axis: int = 0) -> FLOAT:
    y: FLOAT = op.DequantizeLinear(codes, step, axis=axis)
    return y


def _to_pixels(x: FLOAT) -> UINT8:
    zero = op.Cast(op.Constant(value_int=0), to=onnx.TensorProto.UINT8)
    y: UINT8 = op.QuantizeLinear(x, op.Constant(value_float=1 / 255), zero)
    return y


def _enlarge_bicubic(x: FLOAT, scale: int) -> FLOAT:
    factors = op.Constant(value_floats=[1.0, 1.0, float(scale), float(scale)])
    y: FLOAT = op.Resize(x, None, factors, mode="cubic", cubic_coeff_a=-0.5)
    return y


# torch.onnx would trace the network once more to decompose these, as it has no translation of them.
def _aminmax(x: FLOAT, dim: int | None = None, keepdim: bool = False) -> tuple[FLOAT, FLOAT]:
    axes = None if dim is None else op.Constant(value_ints=[dim])
    keepdims = int(keepdim)
    return op.ReduceMin(x, axes, keepdims=keepdims), op.ReduceMax(x, axes, keepdims=keepdims)


def _rsub(x: FLOAT, other: float, alpha: float = 1) -> FLOAT:
    y: FLOAT = op.Sub(op.CastLike(other, x), op.Mul(x, op.CastLike(alpha, x)) if alpha != 1 else x)
    return y


def _movedim(x: FLOAT, source: int, destination: int) -> FLOAT:
    order = list(range(len(x.shape)))  # type: ignore[arg-type]
    order.insert(destination % len(order), order.pop(source))
    y: FLOAT = op.Transpose(x, perm=order)
    return y


def _to_dtype(x: FLOAT, dtype: int, non_blocking: bool = False, copy: bool = False) -> FLOAT:
    y: FLOAT = op.Cast(x, to=dtype)
    return y


def _to_dtype_layout(x: FLOAT, dtype: int, layout: str = "", device: str = "") -> FLOAT:
    return _to_dtype(x, dtype)


def _square(x: FLOAT) -> FLOAT:
    y: FLOAT = op.Mul(x, x)
    return y


def _requantized(op: Any, codes: Any, step: Any, zero: Any) -> Any:
    return op.QuantizeLinear(op.DequantizeLinear(codes, step, zero), step, zero)


def _same(op: Any, codes: Any, **_: Any) -> Any:
    return op.Identity(codes)


# A tensor site has quantized the input of a layer to the same codes already. A second quantization
# would go through floating point and keep the preceding addition out of its kernel.
_RULES = (
    pattern.RewriteRule(_requantized, _same, remove_nodes=False),
    rules.add_0_rule,
    rules.sub_0_rule,
    rules.mul_by_1_rule,
    rules.div_by_1_rule,
    rules.no_op_cast_rule,
    rules.cast_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.reshape_reshape_rule,
    rules.materialize_reshape_shape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.unsqueeze_unsqueeze_rule,
    rules.collapse_slice_rule,
    rules.collapse_slice2_rule,
    rules.min_min_rule,
    rules.max_max_rule,
    rules.min_max_rule,
    rules.max_min_rule,
    rules.successive_clip_rule,
    rules.successive_relu_rule,
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.remove_optional_bias_from_conv_rule,
    rules.remove_optional_bias_from_conv_transpose_rule,
    rules.remove_optional_bias_from_gemm_rule,
)
