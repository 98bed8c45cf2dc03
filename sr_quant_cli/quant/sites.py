"""Sites: the places of a network where values may be quantized.

A network declares its sites. A placement gives the precision of their operands, by the kind of a
site or by its path. A method makes the quantizers.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Literal, get_args

from pydantic import PlainSerializer, PlainValidator

from sr_quant_cli.quant.widths import MAX_BITS, MIN_BITS, check_width, plain

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
    "head": "convolutions before the body; the first one reads the picture",
    "block_in": "input of a residual block, for both branch and shortcut",
    "skip": "tensor on a block's shortcut",
    "block_first": "first convolution of a block",
    "block": "further convolutions of a block",
    "block_out": "output of a block's branch, before the addition",
    "body_last": "last convolution of the body",
    "body_out": "output of the body, before the addition",
    "long_skip": "tensor on the skip connection around the body",
    "fusion": "convolution that merges features",
    "dense_in": "input of a layer of a dense block: a concatenation",
    "concat_in": "input of a concatenation",
    "act_in": "input of an activation function other than ReLU",
    "upsampler": "convolution before a PixelShuffle",
    "tail": "last convolution, which gives the picture",
    "residual_out": "output of the network, before its addition to an interpolated picture",
    "linear": "linear layer of a transformer",
    "matmul": "product of two activations",
}
"""Kinds of sites, as they occur in the networks of the literature."""

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


_LONGEST = 100
"""Characters of a name that are compared with those of sites."""


def has_weight(kind: Kind) -> bool:
    """Tell if sites of a kind have a weight: tensors and products of activations have none."""
    return kind not in (*TENSORS, "matmul")


_Word = Literal["fp32", "int8", "low"]
PRECISIONS = f"{', '.join(get_args(_Word))}, {MIN_BITS} to {MAX_BITS} (bits), or levels as 29L"
"""Allowed precisions, in words."""


def check_precision(value: object) -> _Word | int:
    """Give a precision back, or refuse it.

    Raises
    ------
    ValueError
        It is none of ``fp32``, ``int8`` and ``low``, and no width.
    """
    if value in get_args(_Word):
        return value  # type: ignore[return-value]
    try:
        return check_width(value)
    except ValueError:
        raise ValueError(f"must be one of {PRECISIONS}") from None


Precision = Annotated[_Word | int, PlainValidator(check_precision), PlainSerializer(plain)]
"""``fp32``: float; ``int8``: 8 bits; ``low``: the run's default width; or a width of its own."""


@dataclass(frozen=True)
class Site:
    """A place where values may be quantized: a submodule, and what is known of its input."""

    path: str
    kind: Kind
    channels: int
    """channels of the input"""
    unsigned: bool = False
    """the input is never negative (after a ReLU); of a product, the left one (after a softmax)"""
    after_gelu: bool = False
    """the input is hardly negative (after a GELU)"""
    quantized_by: str | None = None
    """tensor site whose output the input is: its path, or its kind for the nearest one before;
    None: no such site"""


@dataclass(frozen=True)
class Operands:
    """Precision of the operands of a site; a tensor site has an input alone."""

    input: Precision = "fp32"
    weight: Precision = "fp32"
    integer: bool = False
    """grids for integer kernels: symmetric per-channel weights, inputs with zero as a level"""


@dataclass(frozen=True)
class Stream:
    """Feature channels that pass between convolutions by additions alone, or through a ReLU.

    The output does not change when a matrix is applied to the channels where layers write them and
    its inverse to the weights that read them. Behind a ReLU the matrix must be diagonal and
    positive.
    """

    writers: tuple[str, ...]
    """Paths of the convolutions whose outputs are added to the stream."""
    readers: tuple[str, ...]
    """Paths of the convolutions that take the stream as input."""
    carriers: tuple[str, ...] = ()
    """Paths of the modules that pass the stream on."""
    rectified: bool = False
    """The stream passes through a ReLU."""

    @property
    def places(self) -> tuple[str, ...]:
        """Paths of the modules that see the stream."""
        return (*self.carriers, *self.readers)


@dataclass(frozen=True)
class ChannelGroups:
    """Channels that may be scaled without changing the output.

    All channels of a group are multiplied by one positive factor where convolutions write them, and
    divided by it where convolutions read them. Group 0 is never scaled.
    """

    written: dict[str, tuple[int, ...]]
    """Group of each output channel of a convolution, by its path."""
    read: dict[str, tuple[int, ...]]
    """Group of each input channel of a convolution, by its path."""
    passed: dict[str, tuple[int, ...]]
    """Group of each channel of what a module without weights passes on, by its path."""


Placement = dict[str, Operands]
"""Operands by the kind of a site, or by the path of a single one; all other sites stay float."""


def operands_at(site: Site, placement: Mapping[str, Operands]) -> Operands:
    """Operands of a site: those of its path, else those of its kind, else float.

    >>> placement = {"block": Operands(4, 4), "body.3.conv2": Operands(6, 5)}
    >>> operands_at(Site("body.3.conv2", "block", 64), placement).weight
    5
    >>> operands_at(Site("body.2.conv2", "block", 64), placement).weight
    4
    """
    by_kind = placement.get(site.kind, Operands())
    return by_kind if site.path in KINDS else placement.get(site.path, by_kind)


def no_such_site(name: str, sites: Iterable[Site]) -> str:
    """Error for a name that is neither a site of a network nor the kind of one.

    >>> print(no_such_site("body.1.conv7", [Site("body.1.conv1", "block", 8)]))
    no such site in this network; did you mean body.1.conv1?
    >>> print(no_such_site("gate", [Site("body.1.conv1", "block", 8)]))
    no such site in this network; it has block
    """
    sites = list(sites)
    kinds = dict.fromkeys(site.kind for site in sites)
    near = get_close_matches(name[:_LONGEST], [*kinds, *(site.path for site in sites)])
    found = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(kinds)}"
    return f"no such site in this network; {found}"


RESIDUAL_CONVOLUTIONS: Placement = {
    "block_first": Operands("low", "low"),
    "block": Operands("low", "low"),
}
"""Both operands of the convolutions in residual blocks, nothing else."""

RESIDUAL_BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "block_in": Operands("low"),
    "block_out": Operands("low"),
    "fusion": Operands("low", "low"),
}
"""Convolutions of residual blocks and the tensors around them (PAMS and its successors)."""

RELEASED_RESIDUAL_BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "skip": Operands("low"),
    "block_first": Operands("fp32", "low"),
    "block_out": Operands("low"),
    "fusion": Operands("low", "low"),
}
"""The same in the released code: only the shortcut gets the quantized input of the block."""

CONTENT_AWARE_BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "block_in": Operands("low"),
    "block_out": Operands("int8"),
}
"""Convolutions of residual blocks and their inputs; outputs of the branches at 8 bits (CADyQ)."""

BLOCKS: Placement = {
    **RESIDUAL_CONVOLUTIONS,
    "linear": Operands("low", "low"),
    "matmul": Operands("low", "low"),
}
"""All products in blocks: convolutions of residual blocks, layers and products of transformers."""

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
"""Every convolution on integers, for deployment. Both sides of an addition have 8 bits, and so
have tensors that skip layers or enter an activation function that no kernel includes."""
