"""Sites: the places of a network where values may be quantized, and how each is to be.

A network declares its sites; a placement says for each kind of site in which precision its operands
are; a method says how.
"""

from dataclasses import dataclass
from typing import Literal

Kind = Literal[
    "head",
    "block_in",
    "skip",
    "block_first",
    "block",
    "block_out",
    "body_last",
    "body_out",
    "long_skip",
    "fusion",
    "dense_in",
    "concat_in",
    "act_in",
    "upsampler",
    "tail",
    "residual_out",
    "linear",
    "matmul",
]

KINDS: dict[Kind, str] = {
    "head": "convolutions in front of the body, the first of them on the picture",
    "block_in": "tensor entering a residual block, for the branch and the shortcut alike",
    "skip": "tensor carried by a block's shortcut",
    "block_first": "first convolution of a block",
    "block": "further convolutions of a block",
    "block_out": "output of a block's branch, before the addition",
    "body_last": "convolution that ends the body",
    "body_out": "output of the body, before the addition",
    "long_skip": "tensor carried by the skip around the body",
    "fusion": "convolution that merges features",
    "dense_in": "tensor entering a layer of a dense block, which the concatenation carries on",
    "concat_in": "tensor that concatenations carry on",
    "act_in": "tensor entering an activation function other than ReLU",
    "upsampler": "convolution in front of a PixelShuffle",
    "tail": "last convolution, giving the picture",
    "residual_out": "output of the network, before it is added to an interpolated picture",
    "linear": "linear layer of a transformer",
    "matmul": "product of two activations",
}
"""What the kinds are, as the networks of the literature have them."""

TENSORS = (
    "block_in",
    "skip",
    "block_out",
    "body_out",
    "long_skip",
    "dense_in",
    "concat_in",
    "act_in",
    "residual_out",
)
"""Kinds that are a tensor alone: the network has an ``nn.Identity`` there."""

Precision = Literal["fp32", "int8", "low"]
"""Float, 8 bits, or the bits that are asked for."""


@dataclass(frozen=True)
class Site:
    """One place: the path of a submodule, its kind, and what is known of its input."""

    path: str
    kind: Kind
    channels: int
    """of its input"""
    unsigned: bool = False
    """its input is never negative, after a ReLU; of a product, the left one, after a softmax"""
    after_gelu: bool = False
    """its input is hardly negative, after a GELU"""
    quantized_by: Kind | None = None
    """kind of the tensor site whose output its input is, where there is one"""


@dataclass(frozen=True)
class Operands:
    """Precision of the operands at one kind of site; a tensor site has an input alone."""

    input: Precision = "fp32"
    weight: Precision = "fp32"
    integer: bool = False
    """grids that integer kernels take: of a weight, a symmetric one for each output channel; of an
    input, with zero as a level"""


@dataclass(frozen=True)
class Stream:
    """Feature channels that run from convolutions to convolutions by additions, or through a ReLU.

    Applying a matrix to them where layers write them, and the inverse to the weights that read
    them, changes nothing of the output: behind a ReLU, a diagonal one of positive entries.
    """

    writers: tuple[str, ...]
    """Paths of the convolutions whose outputs are added to it."""
    readers: tuple[str, ...]
    """Paths of the convolutions whose input it is."""
    carriers: tuple[str, ...] = ()
    """Paths of the modules that pass it on."""
    rectified: bool = False
    """It goes through a ReLU."""

    @property
    def places(self) -> tuple[str, ...]:
        """Paths of the modules that see it."""
        return (*self.carriers, *self.readers)


Placement = dict[Kind, Operands]
"""Kinds that are not named stay float."""

RESIDUAL_CONVOLUTIONS: Placement = {
    "block_first": Operands("low", "low"),
    "block": Operands("low", "low"),
}
"""Both operands of the convolutions of residual blocks, nothing else."""

RESIDUAL_BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "block_in": Operands("low"),
    "block_out": Operands("low"),
    "fusion": Operands("low", "low"),
}
"""Their convolutions and the tensors around these, as PAMS and its successors have it."""

RELEASED_RESIDUAL_BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "skip": Operands("low"),
    "block_first": Operands("fp32", "low"),
    "block_out": Operands("low"),
    "fusion": Operands("low", "low"),
}
"""As their released code has it: only the shortcut gets the quantized input of the block."""

CONTENT_AWARE_BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "block_in": Operands("low"),
    "block_out": Operands("int8"),
}
"""Their convolutions and the inputs of these, and the outputs of branches at 8 bits (CADyQ)."""

BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "linear": Operands("low", "low"),
    "matmul": Operands("low", "low"),
}
"""All products inside blocks: of residual blocks the convolutions, of a transformer the rest."""

_BODY = Operands("low", "low", integer=True)
_ENDS = Operands("int8", "int8", integer=True)
_TENSOR = Operands("int8", integer=True)

FULL: Placement = {
    "head": _ENDS,
    "block_in": _TENSOR,
    "block_first": _BODY,
    "block": _BODY,
    "block_out": _TENSOR,
    "body_last": _BODY,
    "body_out": _TENSOR,
    "long_skip": _TENSOR,
    "fusion": _BODY,
    "concat_in": _TENSOR,
    "act_in": _TENSOR,
    "upsampler": _ENDS,
    "tail": _ENDS,
    "residual_out": _TENSOR,
    "linear": _BODY,
    "matmul": Operands("low", "low", integer=True),
}
"""Every convolution on integers: what is deployed. Both sides of an addition have 8 bits, and
what is carried past layers or enters an activation function that is no part of a kernel."""
