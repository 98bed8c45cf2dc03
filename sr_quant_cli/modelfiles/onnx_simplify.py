"""Simplifications of ONNX graphs that leave their result the same.

Training tools export what they run: normalizations behind convolutions, parallel branches that a
deployment merges (RepVGG, ECBSR), factors and offsets, casts.
"""

from collections.abc import Callable, Iterator

import numpy as np

from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.onnx_graph import Array, Graph, Op

_FLOATS = (1, 10, 11, 16)
"""types of ONNX that are floats"""


def simplify(graph: Graph) -> None:
    """Apply all simplifications until none changes the graph."""
    graph.without_unused()
    changed = True
    while changed:
        changed = any(step(graph) for step in _STEPS)
    graph.without_unused()


Step = Callable[[Graph], bool]


def _drop(graph: Graph) -> bool:
    """Remove operations that change nothing in inference."""
    sizes, changed = graph.sizes(), False
    for op in list(graph.ops):
        nothing = op.op in ("Identity", "Dropout") or (
            op.op == "Cast" and op.attributes["to"] in _FLOATS and op.inputs[0] not in sizes
        )
        if nothing:
            op.outputs = op.outputs[:1]
            graph.pass_on(op, op.inputs[0])
            changed = True
    return changed


def _batch_norm_as_affine(graph: Graph) -> bool:
    """Replace batch normalization by a factor and an offset of each channel."""
    changed = False
    for op in list(graph.ops):
        if op.op != "BatchNormalization":
            continue
        arrays = [graph.constant(name) for name in op.inputs[1:5]]
        if any(array is None for array in arrays):
            continue
        scale, bias, mean, var = (np.asarray(array, np.float64) for array in arrays)
        factor = scale / np.sqrt(var + op.attributes.get("epsilon", 1e-5))
        offset = bias - mean * factor
        shape = (1, -1, 1, 1)
        between = f"{op.outputs[0]}.factor"
        place = graph.ops.index(op)
        graph.ops[place : place + 1] = [
            Op("Mul", [op.inputs[0], graph.add_constant(factor.reshape(shape))], [between]),
            Op("Add", [between, graph.add_constant(offset.reshape(shape))], op.outputs[:1]),
        ]
        changed = True
    return changed


def _per_channel(array: Array, channels: int) -> Array | None:
    """A constant operand as one number for each channel of ``[N, C, H, W]``; None: it is not."""
    if array.size == 1:
        return np.full(channels, float(array.ravel()[0]))
    lead = (1,) * (4 - array.ndim) + array.shape
    if len(lead) == 4 and lead == (1, channels, 1, 1):
        return array.astype(np.float64).ravel()
    return None


def _pairs(
    graph: Graph, first: tuple[str, ...], second: tuple[str, ...]
) -> Iterator[tuple[Op, Op]]:
    """Pairs of operations of which the second is the only reader of the first."""
    read, makers = graph.readers(), graph.makers()
    for op in list(graph.ops):
        if op.op not in second:
            continue
        for name in op.inputs:
            before = makers.get(name)
            if before is not None and before.op in first and read[name] == 1:
                yield before, op
                break


def _weights(graph: Graph, conv: Op) -> tuple[Array, Array] | None:
    """Kernel and bias of a convolution, float64; None: they are not constant."""
    kernel = graph.constant(conv.inputs[1])
    if kernel is None:
        return None
    channels = len(kernel)
    if conv.op == "ConvTranspose":
        channels = kernel.shape[1] * conv.attributes.get("group", 1)
    bias: Array | None = np.zeros(channels)
    if len(conv.inputs) > 2 and conv.inputs[2]:
        bias = graph.constant(conv.inputs[2])
    return None if bias is None else (kernel.astype(np.float64), bias.astype(np.float64))


def _set_weights(graph: Graph, conv: Op, kernel: Array, bias: Array) -> None:
    conv.inputs = [conv.inputs[0], graph.add_constant(kernel), graph.add_constant(bias)]


def _affine_into_convolution(graph: Graph) -> bool:
    """Merge factors and offsets behind a convolution into its weights."""
    for conv, op in _pairs(graph, ("Conv",), ("Add", "Sub", "Mul", "Div")):
        weights = _weights(graph, conv)
        constants = [graph.constant(name) for name in op.inputs]
        if weights is None or all(array is None for array in constants):
            continue
        kernel, bias = weights
        left, right = constants
        array = left if left is not None else right
        assert array is not None
        given = _per_channel(array, len(kernel))
        if given is None or (op.op == "Div" and left is not None):
            continue
        if op.op in ("Mul", "Div"):
            factor = given if op.op == "Mul" else 1 / given
            kernel, bias = kernel * factor.reshape(-1, 1, 1, 1), bias * factor
        elif op.op == "Add":
            bias = bias + given
        elif left is not None:
            kernel, bias = -kernel, given - bias
        else:
            bias = bias - given
        _set_weights(graph, conv, kernel, bias)
        graph.pass_on(op, conv.outputs[0])
        return True
    return False


def _matmul_as_linear(graph: Graph) -> bool:
    """Make linear layers of products with a constant matrix, and merge offsets into them."""
    for op in graph.ops:
        matrix = graph.constant(op.inputs[1]) if op.op in ("MatMul", "Gemm") else None
        if matrix is None or matrix.ndim != 2:
            continue
        if op.op == "Gemm":
            how = op.attributes
            if how.get("transA") or how.get("beta", 1) != 1:
                continue
            matrix = how.get("alpha", 1) * (matrix if how.get("transB") else matrix.T)
            if len(op.inputs) > 2:
                bias = graph.constant(op.inputs[2])
                if bias is None or bias.size != len(matrix):
                    continue
                op.inputs[2] = graph.add_constant(bias.reshape(-1))
        else:
            matrix = matrix.T
        op.op, op.attributes = "Linear", {}
        op.inputs[1] = graph.add_constant(matrix)
        return True
    for linear, op in _pairs(graph, ("Linear",), ("Add",)):
        array = next((a for a in map(graph.constant, op.inputs) if a is not None), None)
        kernel = graph.constant(linear.inputs[1])
        if array is None or kernel is None or array.size != len(kernel) or len(linear.inputs) > 2:
            continue
        linear.inputs.append(graph.add_constant(array.reshape(-1)))
        graph.pass_on(op, linear.outputs[0])
        return True
    return False


def _plain(conv: Op) -> bool:
    """True for a convolution whose zero padding keeps the size, in one group."""
    how = conv.attributes
    kernel = how.get("kernel_shape", [])
    return (
        how.get("group", 1) == 1
        and set(how.get("strides", [1])) == {1}
        and set(how.get("dilations", [1])) == {1}
        and all(size % 2 for size in kernel)
        and how.get("pads", [0, 0, 0, 0]) == [size // 2 for size in kernel] * 2
    )


def _branches_as_one(graph: Graph) -> bool:
    """Merge parallel convolutions of one value, and the value itself, that are added up."""
    read, makers = graph.readers(), graph.makers()
    for op in graph.ops:
        if op.op != "Add" or len({*op.inputs}) < 2:
            continue
        branches = [makers.get(name) for name in op.inputs]
        convs = [
            b
            if b is not None and b.op == "Conv" and _plain(b) and read[b.outputs[0]] == 1
            else None
            for b in branches
        ]
        if all(conv is None for conv in convs):
            continue
        sources = [
            name if conv is None else conv.inputs[0]
            for name, conv in zip(op.inputs, convs, strict=True)
        ]
        if sources[0] != sources[1]:
            continue
        parts = [None if conv is None else _weights(graph, conv) for conv in convs]
        if any(part is None and conv is not None for part, conv in zip(parts, convs, strict=True)):
            continue
        kernels = [part[0] for part in parts if part is not None]
        out, given = kernels[0].shape[:2]
        if any(kernel.shape[:2] != (out, given) for kernel in kernels):
            continue
        if len(kernels) < 2 and out != given:
            continue
        side = max(max(kernel.shape[2:]) for kernel in kernels)
        total, offset = np.zeros((out, given, side, side)), np.zeros(out)
        for part in parts:
            if part is None:
                total[np.arange(out), np.arange(out), side // 2, side // 2] += 1
                continue
            kernel, bias = part
            rows, columns = ((side - size) // 2 for size in kernel.shape[2:])
            total[:, :, rows : side - rows, columns : side - columns] += kernel
            offset += bias
        kept = next(conv for conv in convs if conv is not None)
        pads = [side // 2] * 4
        op.op, op.label = "Conv", kept.label
        op.attributes = {"kernel_shape": [side, side], "pads": pads}
        op.inputs = [sources[0], *kept.inputs[1:]]
        _set_weights(graph, op, total, offset)
        graph.without_unused()
        return True
    return False


def _convolutions_in_a_row(graph: Graph) -> bool:
    """Merge a convolution and one of 1x1 behind it, or before it if nothing is padded between."""
    for first, second in _pairs(graph, ("Conv",), ("Conv",)):
        if not (_plain(first) and set(second.attributes.get("dilations", [1])) == {1}):
            continue
        if second.attributes.get("group", 1) != 1 or second.inputs[0] != first.outputs[0]:
            continue
        one, two = _weights(graph, first), _weights(graph, second)
        if one is None or two is None:
            continue
        (k1, b1), (k2, b2) = one, two
        if k2.shape[2:] == (1, 1) and set(second.attributes.get("strides", [1])) == {1}:
            kernel = np.einsum("om,mihw->oihw", k2[:, :, 0, 0], k1)
            attributes = first.attributes
        elif k1.shape[2:] == (1, 1) and (
            not b1.any() or not any(second.attributes.get("pads", []))
        ):
            kernel = np.einsum("omhw,mi->oihw", k2, k1[:, :, 0, 0])
            attributes = second.attributes
        else:
            continue
        if kernel.size > k1.size + k2.size:
            continue  # a bottleneck, which is cheaper in two
        bias = b2 + k2.sum((2, 3)) @ b1
        second.attributes, second.inputs = attributes, [first.inputs[0], *second.inputs[1:]]
        _set_weights(graph, second, kernel, bias)
        graph.ops.remove(first)
        return True
    return False


def _uneven_padding(graph: Graph) -> bool:
    """Turn automatic padding into numbers, and take uneven one out of convolutions."""
    for op in graph.ops:
        if op.op not in ("Conv", "ConvTranspose", "MaxPool", "AveragePool"):
            continue
        auto = op.attributes.pop("auto_pad", "NOTSET")
        kernel = op.attributes.get("kernel_shape")
        if kernel is None and op.op in ("Conv", "ConvTranspose"):
            weight = graph.constant(op.inputs[1])
            if weight is not None:
                op.attributes["kernel_shape"] = kernel = list(weight.shape[2:])
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            if set(op.attributes.get("strides", [1])) != {1} or op.op == "ConvTranspose":
                raise UsageError(f"{op.op} with auto_pad {auto} and a stride: export it with pads")
            dilations = op.attributes.get("dilations", [1, 1])
            total = [d * (k - 1) for k, d in zip(kernel or [], dilations, strict=True)]
            small, large = [t // 2 for t in total], [t - t // 2 for t in total]
            before, behind = (small, large) if auto == "SAME_UPPER" else (large, small)
            op.attributes["pads"] = before + behind
        pads = op.attributes.get("pads", [])
        if op.op == "Conv" and len(pads) == 4 and pads[:2] != pads[2:]:
            amounts = graph.add_constant(np.array([0, 0, *pads[:2], 0, 0, *pads[2:]]))
            padded = f"{op.outputs[0]}.padded"
            place = graph.ops.index(op)
            graph.ops.insert(place, Op("Pad", [op.inputs[0], amounts], [padded]))
            op.inputs = [padded, *op.inputs[1:]]
            op.attributes["pads"] = [0, 0, 0, 0]
            return True
    return False


def _shuffle_columns_first(graph: Graph) -> bool:
    """Reorder channels in front of a DepthToSpace, so that it is a PixelShuffle."""
    for conv, op in _pairs(graph, ("Conv",), ("DepthToSpace",)):
        weights = _weights(graph, conv)
        if op.attributes.get("mode", "DCR") != "DCR" or weights is None:
            continue
        block = op.attributes["blocksize"]
        order = np.arange(len(weights[0])).reshape(block**2, -1).T.ravel()
        _set_weights(graph, conv, weights[0][order], weights[1][order])
        op.attributes["mode"] = "CRD"
        return True
    return False


def _spelled_shuffle(graph: Graph) -> bool:
    """Recognize a PixelShuffle that is spelled as reshape, transpose, reshape."""
    read, makers = graph.readers(), graph.makers()
    for op in graph.ops:
        if op.op != "Transpose" or op.attributes.get("perm") not in (
            [0, 1, 4, 2, 5, 3],
            [0, 3, 4, 1, 5, 2],
        ):
            continue
        before, end = makers.get(op.inputs[0]), _only_reader(graph, op)
        if before is None or before.op != "Reshape" or read[before.outputs[0]] != 1:
            continue
        shape, source = graph.constant(before.inputs[1]), before.inputs[0]
        spread = makers.get(source)
        if spread is not None and spread.op == "Unsqueeze":
            # Before version 11 of ONNX, torch keeps six dimensions up to a last operation.
            source = spread.inputs[0]
            while end is not None and end.op == "Reshape":
                end = _only_reader(graph, end)
        if shape is None or end is None or end.op not in ("Reshape", "Squeeze"):
            continue
        columns_first = op.attributes["perm"][1] == 1
        block = int(shape[2 if columns_first else 1])
        end.op, end.inputs = "DepthToSpace", [source]
        end.attributes = {"blocksize": block, "mode": "CRD" if columns_first else "DCR"}
        graph.without_unused()
        return True
    return False


def _only_reader(graph: Graph, op: Op) -> Op | None:
    """The operation that alone reads the result of another one; None: it is not alone."""
    readers = [other for other in graph.ops if op.outputs[0] in other.inputs]
    return readers[0] if len(readers) == 1 and graph.result != op.outputs[0] else None


_STEPS: tuple[Step, ...] = (
    _drop,
    _uneven_padding,
    _batch_norm_as_affine,
    _affine_into_convolution,
    _matmul_as_linear,
    _convolutions_in_a_row,
    _branches_as_one,
    _spelled_shuffle,
    _shuffle_columns_first,
)
