"""Operations of imported networks against ONNX Runtime."""

import numpy as np
import pytest
import torch

from sr_quant_cli.networks.functions import FUNCTIONS
from sr_quant_cli.networks.operations import known_operations
from sr_quant_cli.networks.resizing import resize as resize_picture
from tests.networks.test_graphs_of_nodes import GRAPHS
from tests.nodes import PICTURE, agree, number, values, whole

CHANNELS = {name: np.abs(values(4)) + 0.5 for name in ("s", "b", "m", "v")}


def case(op, *operands, x=PICTURE, opset=18, **attributes):
    """One operation on ``x`` and constant operands; None leaves an operand out."""
    form = ",".join(f"{key}={value}" for key, value in attributes.items())
    return pytest.param(op, operands, x, opset, attributes, id=f"{op}-{opset} {form}")


ROI = np.array([], np.float32)


def resize(mode, place, scales=(1, 1, 2, 2), sizes=None, opset=18, **how):
    given = [None, np.array(scales, np.float32)] if sizes is None else [None, None, whole(*sizes)]
    if mode == "nearest":
        how.setdefault("nearest_mode", "floor")
    how |= {"mode": mode, "coordinate_transformation_mode": place}
    return case("Resize", *given, opset=opset, **how)


CASES = [
    # With weights
    case("Conv", values(3, 4, 3, 3), values(3), pads=[1, 1, 1, 1]),
    case("Conv", values(3, 4, 3, 3), pads=[1, 1, 1, 1], strides=[2, 2]),
    case("Conv", values(3, 4, 3, 2), values(3), pads=[1, 0, 0, 1]),
    case("Conv", values(3, 4, 3, 3), values(3), pads=[2, 2, 2, 2], dilations=[2, 2]),
    case("Conv", values(4, 1, 3, 3), values(4), group=4),
    case("Conv", values(6, 2, 1, 1), group=2),
    case("Conv", values(3, 4, 3, 3), auto_pad="SAME_UPPER"),
    case("Conv", values(3, 4, 2, 2), auto_pad="SAME_UPPER"),
    case("Conv", values(3, 4, 2, 2), auto_pad="SAME_LOWER"),
    case("Conv", values(3, 4, 3, 3), auto_pad="VALID"),
    case("ConvTranspose", values(4, 3, 4, 4), values(3), strides=[2, 2], pads=[1, 1, 1, 1]),
    case(
        "ConvTranspose",
        values(4, 3, 3, 3),
        strides=[2, 2],
        pads=[1, 1, 1, 1],
        output_padding=[1, 1],
    ),
    case("ConvTranspose", values(4, 2, 3, 3), values(4), group=2, dilations=[2, 2]),
    case("PRelu", values(4, 1, 1)),
    case("PRelu", values(1)),
    case("PRelu", values(1, 1, 1)),
    case("PRelu", values(5)),
    case("PRelu", values(4, 6, 5)),
    case("PRelu", values(1, 4, 1, 1)),
    case("MatMul", values(5, 3)),
    case("MatMul", values(2, 4, 5, 3)),
    case("MatMul", values(5)),
    case("Gemm", values(3, 4), values(3), x=values(2, 4), transB=1),
    case("Gemm", values(4, 3), values(3), x=values(2, 4), alpha=0.5),
    case("Gemm", values(4, 3), values(3), x=values(2, 4), alpha=0.5, beta=2.0),
    case("Gemm", values(4, 3), values(1), x=values(2, 4)),
    case("Gemm", values(4, 3), values(2, 3), x=values(2, 4)),
    case("Gemm", values(2, 3), x=values(2, 4), transA=1),
    # Arithmetic
    *[case(op, values(4, 1, 1)) for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum")],
    *[case(op, number(0.7)) for op in ("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum")],
    *[case(op, values(1)) for op in ("Add", "Mul", "Max")],
    case("Min", number(0.7), values(4, 1, 1)),
    case("Mod", number(0.7), fmod=1),
    case("Pow", number(2.0)),
    case("Pow", number(3.0)),
    *[case(op) for op in ("Neg", "Abs", "Floor", "Ceil", "Round", "Reciprocal", "Exp", "Erf")],
    *[case(op, x=np.abs(PICTURE)) for op in ("Sqrt", "Log")],
    *[case(op) for op in ("Sin", "Cos", "Tanh", "Sigmoid", "Relu", "HardSwish", "Identity")],
    *[case(op) for op in ("Softplus", "Softsign", "Mish", "Selu", "HardSigmoid", "Elu")],
    case("Selu", alpha=1.5, gamma=1.1),
    case("LeakyRelu"),
    case("LeakyRelu", alpha=0.2),
    case("HardSigmoid", alpha=1 / 6, beta=0.5),
    case("Elu", alpha=0.5),
    case("Gelu", opset=20),
    case("Gelu", opset=20, approximate="tanh"),
    case("Clip", number(-0.5), number(0.5)),
    case("Clip", number(0.0)),
    case("Clip", None, number(0.5)),
    case("Clip"),
    case("Clip", opset=9, min=0.0, max=0.7),
    case("Clip", opset=9, min=0.0),
    case("Clip", number(-np.inf), number(0.5)),
    # Normalizations
    case("Softmax", axis=1),
    case("Softmax"),
    case("Softmax", opset=11, axis=3),
    case("LayerNormalization", values(5), values(5), epsilon=1e-3),
    case("LayerNormalization", values(5)),
    case("LayerNormalization", values(6, 5), values(6, 5), axis=2),
    case("BatchNormalization", *CHANNELS.values(), epsilon=1e-3),
    case("BatchNormalization", *CHANNELS.values(), opset=9),
    case("InstanceNormalization", values(4), values(4)),
    case("InstanceNormalization", values(1), values(1), x=values(2, 1, 6, 5)),
    case("GroupNormalization", values(4), values(4), num_groups=2, opset=21),
    case("GroupNormalization", values(2), values(2), num_groups=2, opset=18),
    case("LpNormalization", axis=1),
    # Pooling and reductions
    case("GlobalAveragePool"),
    case("GlobalMaxPool"),
    case("AveragePool", kernel_shape=[2, 3]),
    case("AveragePool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    case("AveragePool", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
    case("AveragePool", kernel_shape=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1),
    case("AveragePool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, opset=19),
    case("AveragePool", kernel_shape=[2, 2], strides=[2, 2], auto_pad="VALID"),
    case("MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
    case("MaxPool", kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
    case("MaxPool", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
    case("MaxPool", kernel_shape=[3, 3], pads=[0, 0, 1, 1], strides=[2, 2]),
    case("MaxPool", kernel_shape=[2, 2], dilations=[2, 2]),
    case("MaxPool", kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
    *[
        case(op, opset=opset, **how)
        for op in ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceProd")
        for opset, how in [
            (11, {"axes": [2, 3]}),
            (11, {"axes": [-1], "keepdims": 0}),
            (11, {"keepdims": 0}),
            (18, {}),
        ]
    ],
    case("ReduceMean", whole(1)),
    case("ReduceMean", whole(-2, -1), keepdims=0),
    case("ReduceSum", whole(1, 2), keepdims=0),
    case("ReduceSum", opset=11, axes=[1]),
    case("ReduceSum", noop_with_empty_axes=1),
    case("ReduceSum", whole(), noop_with_empty_axes=1),
    case("ReduceSum", whole()),
    case("ReduceSumSquare", whole(1)),
    # Shapes
    case("DepthToSpace", blocksize=2, mode="CRD", x=values(1, 12, 3, 2)),
    case("DepthToSpace", blocksize=2, mode="DCR", x=values(1, 12, 3, 2)),
    case("DepthToSpace", blocksize=2, x=values(1, 12, 3, 2)),
    case("SpaceToDepth", blocksize=2, x=values(1, 3, 4, 6)),
    case("Flatten"),
    case("Flatten", axis=0),
    case("Flatten", axis=-1),
    case("Transpose"),
    case("Transpose", perm=[0, 2, 3, 1]),
    case("Squeeze", whole(1, -1), x=values(2, 1, 3, 1)),
    case("Squeeze", opset=11, axes=[1], x=values(2, 1, 3, 1)),
    case("Unsqueeze", whole(1, -1)),
    case("Unsqueeze", opset=11, axes=[0, 3]),
    case("Reshape", whole(0, -1, 5)),
    case("Reshape", whole(2, 2, 2, 6, 5)),
    case("Reshape", whole(0, 0, 30), opset=14, allowzero=0),
    case("Expand", whole(3, 2, 4, 6, 5)),
    case("Expand", whole(1, 4, 1, 5), x=values(2, 1, 6, 5)),
    case("Expand", whole(3, 1), x=values(2, 1, 1, 5)),
    case("Tile", whole(1, 2, 1, 3)),
    case("Gather", whole(2, 0, -1), axis=1),
    case("Gather", np.array(1), axis=-1),
    case("Gather", np.array([[0, 1], [2, 3]]), axis=1),
    case("Gather", np.arange(200) % 6, axis=2),
    case("Slice", whole(1), whole(3), whole(1)),
    case("Slice", whole(0, -3), whole(2**63 - 1, -1), whole(2, -1)),
    case("Slice", whole(1), whole(2**31 - 1), whole(3), whole(2)),
    case("Slice", whole(-1), whole(-(2**63)), whole(2), whole(-1)),
    case("Slice", whole(-1), whole(-(2**31)), whole(2), whole(-1)),
    case("Slice", whole(0, 1), whole(2, 3)),
    case("Slice", opset=9, starts=[1], ends=[3], axes=[2]),
    case("Slice", opset=9, starts=[0, 1], ends=[1, 2]),
    case("Pad", whole(0, 0, 1, 2, 0, 0, 3, 0)),
    case("Pad", whole(0, 1, 1, 2, 0, 0, 3, 0), number(0.5)),
    case("Pad", whole(0, 0, -1, 2, 0, 0, 1, -2)),
    case("Pad", whole(0, 0, 1, 2, 0, 0, 3, 0), mode="reflect"),
    case("Pad", whole(0, 0, 1, 2, 0, 0, 3, 0), mode="edge"),
    case("Pad", whole(0, 0, 0, 2, 0, 0, 0, 1), mode="reflect"),
    case("Pad", whole(0, 0, 2, 0, 0, 0, 1, 0), mode="reflect"),
    case("Pad", whole(1, 2), None, whole(3), mode="edge"),
    case("Pad", whole(1, 2, 0, 3), None, whole(-1, 2)),
    case("Pad", whole(0, 0, 1, 2, 0, 0, 3, 0), mode="wrap", opset=19),
    case("Pad", opset=9, pads=[0, 0, 1, 2, 0, 0, 3, 0], value=0.5),
    case("Pad", opset=9, pads=[0, 0, 1, 2, 0, 0, 3, 0], mode="reflect"),
    # Resize
    resize("nearest", "asymmetric"),
    resize("nearest", "asymmetric", (1, 1, 3, 3)),
    resize("nearest", "asymmetric", (1, 1, 1.5, 2.5)),
    resize("nearest", "asymmetric", (1, 1, 0.5, 0.4)),
    resize("nearest", "asymmetric", (1, 1, 3, 3), nearest_mode="round_prefer_floor"),
    resize("nearest", "asymmetric", (1, 1, 3, 3), nearest_mode="ceil"),
    resize("nearest", "half_pixel", (1, 1, 3, 3), nearest_mode="round_prefer_floor"),
    resize("nearest", "half_pixel", (1, 1, 2, 2), nearest_mode="floor"),
    resize("nearest", "half_pixel", (1, 1, 0.5, 0.5), nearest_mode="round_prefer_floor"),
    resize("nearest", "half_pixel", (1, 1, 0.5, 0.5), nearest_mode="round_prefer_ceil"),
    resize("nearest", "align_corners", (1, 1, 2, 2), nearest_mode="round_prefer_floor"),
    resize("nearest", "asymmetric", sizes=(2, 4, 12, 15)),
    resize("nearest", "asymmetric", sizes=(2, 4, 7, 3)),
    resize("linear", "half_pixel"),
    resize("linear", "half_pixel", (1, 1, 1.5, 3)),
    resize("linear", "half_pixel", (1, 1, 0.5, 0.5)),
    resize("linear", "pytorch_half_pixel", sizes=(2, 4, 13, 9)),
    resize("linear", "align_corners", sizes=(2, 4, 13, 9)),
    resize("linear", "align_corners"),
    resize("linear", "asymmetric"),
    resize("linear", "asymmetric", sizes=(2, 4, 13, 9)),
    resize("cubic", "half_pixel"),
    resize("cubic", "half_pixel", (1, 1, 1.5, 2)),
    resize("cubic", "half_pixel", sizes=(2, 4, 13, 9)),
    resize("cubic", "align_corners", sizes=(2, 4, 13, 9)),
    resize("linear", "half_pixel", (2, 2), axes=[2, 3]),
    resize("linear", "half_pixel", (3, 2), axes=[3, 2]),
    resize("linear", "half_pixel", (2.0,), axes=[3]),
    case("Resize", np.array([1, 1, 2, 2], np.float32), opset=10, mode="nearest"),
    case("Resize", np.array([1, 1, 2, 2], np.float32), opset=10, mode="linear"),
    case(
        "Resize",
        ROI,
        np.array([1, 1, 2, 3], np.float32),
        opset=11,
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    ),
    case("Resize", ROI, np.array([1, 1, 2, 2], np.float32), opset=13),
    case("Upsample", np.array([1, 1, 2, 3], np.float32), opset=9, mode="nearest"),
    case("Upsample", np.array([1, 1, 2, 2], np.float32), opset=9, mode="linear"),
]


@pytest.mark.parametrize(("op", "operands", "x", "opset", "attributes"), CASES)
def test_an_operation_equals_that_of_onnx_runtime(op, operands, x, opset, attributes):
    constants = {f"c{i}": array for i, array in enumerate(operands) if array is not None}
    given = ["x", *(f"c{i}" if array is not None else "" for i, array in enumerate(operands))]
    agree([(op, given, ["y"], attributes)], constants, x, opset)


def test_every_operation_is_compared():
    compared = {case.values[0] for case in CASES}
    compared |= {node[0] for nodes, *_ in GRAPHS.values() for node in nodes}
    newer = {"Swish"}  # than ONNX Runtime
    assert set(known_operations()) - compared == {"Linear"} | newer


def test_swish():
    x = torch.from_numpy(PICTURE)
    assert torch.allclose(FUNCTIONS["Swish"](x, alpha=2.0), x * torch.sigmoid(2 * x))


@pytest.mark.parametrize(
    ("attributes", "scales"),
    [
        ({"mode": "cubic", "cubic_coeff_a": -0.5}, (1, 1, 2, 2)),
        ({"mode": "cubic", "coordinate_transformation_mode": "asymmetric"}, (1, 1, 2, 2)),
        ({"mode": "linear", "antialias": 1}, (1, 1, 0.5, 0.5)),
        ({"mode": "linear", "coordinate_transformation_mode": "tf_crop_and_resize"}, (1, 1, 2, 2)),
    ],
)
def test_unknown_forms_of_resize_are_refused(attributes, scales):
    with pytest.raises(ValueError, match="not known"):
        resize_picture(torch.from_numpy(PICTURE), None, np.array(scales), **attributes)
