"""Counted costs: what a quantized network would save on hardware that gains from every bit.

Nothing here is measured: common integer kernels are no faster with 2-bit codes than with 8-bit
ones. Papers report these figures. Only convolutions, linear layers and matrix products count, not
biases, activations, norms and residual additions.

Multiply-accumulates are those of one picture, whose size must be reported with them. The examples
are EDSR-baseline x4, 1920x1080 output pixels, with residual blocks at 4 bits and the rest in float.

References
----------
.. [1] C. Hong, S. Baik, H. Kim, S. Nah, K. M. Lee, "CADyQ: Content-Aware Dynamic Quantization for
       Image Super-Resolution", ECCV 2022.
.. [2] H. Li et al., "PAMS: Quantized Super-Resolution via Parameterized Max Scale", ECCV 2020.
.. [3] K. Liu et al., "2DQuant: Low-bit Post-Training Quantization for Image Super-Resolution",
       NeurIPS 2024.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

FLOAT_BITS = 32


@dataclass(frozen=True)
class Operation:
    """Counted convolution, linear layer or matrix product.

    Attributes
    ----------
    name
        Path of the module in the network.
    macs
        Multiply-accumulates for the reported picture size.
    weights
        Number of weights; 0 for a product of activations, and for a weight that another operation
        of the list has counted.
    weight_bits, input_bits
        2 to 8, or 32 for float; for a product of activations, those of its two operands.
    """

    name: str
    macs: int
    weights: int
    weight_bits: int
    input_bits: int


@dataclass(frozen=True)
class Shares:
    """Shares of multiply-accumulates by the precision of their operands; they sum to 1.

    Attributes
    ----------
    low
        Both operands are below 8 bits.
    int8
        Both are integers, and at least one has 8 bits.
    float
        At least one operand is float.
    """

    low: float
    int8: float
    float: float


def bitops(operations: Iterable[Operation]) -> int:
    """Bit operations: ``2 * macs * weight_bits * input_bits``, summed.

    Multiplication and addition are two operations. Each costs the product of the operands' bits,
    with 32 for float. The unquantized EDSR-baseline x4 has 526.4 T at 1920x1080 output pixels;
    CADyQ and its successors print 527.0 T [1]_. Papers that count a multiply-accumulate once print
    half of that. The printed figures of quantized networks do not follow from the formula: 101.9 T
    for 8-bit PAMS, while residual blocks at 8 bits give 232.8 T.

    >>> blocks = Operation("blocks", 152_882_380_800, 1_179_648, 4, 4)
    >>> rest = Operation("rest", 104_136_192_000, 335_232, 32, 32)
    >>> f"{bitops([blocks, rest]) / 1e12:.1f} T"
    '218.2 T'
    """
    return sum(2 * op.macs * op.weight_bits * op.input_bits for op in operations)


def storage_bytes(operations: Iterable[Operation], other_values: int) -> float:
    """Bytes of the parameters: weights at their bit widths, the rest as float32.

    PAMS [2]_ and 2DQuant [3]_ count like this: no steps, bounds or headers, and no rounding up to
    whole bytes.

    Parameters
    ----------
    operations
        All operations with weights.
    other_values
        Parameters that are no weights of operations: biases, norms, embeddings.

    Examples
    --------
    >>> blocks = Operation("blocks", 152_882_380_800, 1_179_648, 4, 4)
    >>> rest = Operation("rest", 104_136_192_000, 335_232, 32, 32)
    >>> storage_bytes([blocks, rest], other_values=2_691)
    1941516.0
    """
    weight_bits = sum(op.weights * op.weight_bits for op in operations)
    return (weight_bits + other_values * FLOAT_BITS) / 8


def operation_ratio(operations: Sequence[Operation]) -> float:
    """Theoretical share of saved operations, 0..1: an operation at ``b`` bits costs ``b / 32``.

    2DQuant's rule [3]_, which is printed as a speed-up of ``1 / (1 - saved)``. Papers state it for
    operands of equal widths. Here ``b`` is the wider operand, so nothing is saved if either one is
    float.

    Raises
    ------
    ValueError
        There are no multiply-accumulates.

    Examples
    --------
    >>> blocks = Operation("blocks", 152_882_380_800, 1_179_648, 4, 4)
    >>> rest = Operation("rest", 104_136_192_000, 335_232, 32, 32)
    >>> round(operation_ratio([blocks, rest]), 3)
    0.52
    """
    cost = sum(op.macs * _wider(op) for op in operations)
    return 1 - cost / (FLOAT_BITS * _total_macs(operations))


def operand_shares(operations: Sequence[Operation]) -> Shares:
    """Share of multiply-accumulates by the widest operand.

    Raises
    ------
    ValueError
        There are no multiply-accumulates.

    Examples
    --------
    >>> blocks = Operation("blocks", 152_882_380_800, 1_179_648, 4, 4)
    >>> rest = Operation("rest", 104_136_192_000, 335_232, 32, 32)
    >>> shares = operand_shares([blocks, rest])
    >>> round(shares.low, 3), shares.int8, round(shares.float, 3)
    (0.595, 0.0, 0.405)
    """
    total = _total_macs(operations)
    low = sum(op.macs for op in operations if _wider(op) < 8)
    int8 = sum(op.macs for op in operations if _wider(op) == 8)
    return Shares(low / total, int8 / total, (total - low - int8) / total)


def _wider(op: Operation) -> int:
    return max(op.weight_bits, op.input_bits)


def _total_macs(operations: Sequence[Operation]) -> int:
    total = sum(op.macs for op in operations)
    if total == 0:
        raise ValueError("no multiply-accumulates to take a share of")
    return total
