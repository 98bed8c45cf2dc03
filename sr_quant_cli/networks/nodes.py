"""Nodes: the operations that make up an imported network, as its configuration lists them."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter

from sr_quant_cli.strict import MOST, Strict

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_]{1,80}$")]
"""Name of a layer or a value."""
Sizes = Annotated[list[Annotated[int, Field(ge=1, le=MOST)]], Field(max_length=8)]


class Weights(Strict):
    """An operand that the model file holds: a constant tensor."""

    weights: Sizes
    """its shape"""
    integer: bool = False
    """int64 in place of float32"""


class Numbers(Strict):
    """An operand of a few constant numbers, such as sizes, axes or a factor."""

    numbers: Annotated[list[int | float], Field(max_length=64)]
    shape: Annotated[list[int], Field(max_length=4)]
    """shape; empty: a single number"""


Operand = Name | Weights | Numbers | None
"""The name of a value, a constant, or nothing where an operation has an optional operand."""

Attribute = (
    int
    | float
    | Annotated[str, Field(max_length=100)]
    | Annotated[list[int], Field(max_length=64)]
    | Annotated[list[float], Field(max_length=64)]
)


class Node(Strict):
    """An operation: what it computes, from which operands, and the values that it gives."""

    name: Name
    """name of its layer, unique in the network"""
    op: Name
    """operation, by its name in ONNX, or ``Linear``"""
    operands: Annotated[list[Operand], Field(max_length=256)]
    gives: Annotated[list[Name], Field(min_length=1, max_length=256)]
    """names of its results"""
    attributes: Annotated[dict[Name, Attribute], Field(max_length=32, default_factory=dict)]
    """attributes, by their names in ONNX"""

    @property
    def values(self) -> list[str]:
        """Names of the values that it reads, in order, repeated ones once."""
        return list(dict.fromkeys(x for x in self.operands if isinstance(x, str)))

    def attribute(self, name: str, default: Any = None) -> Any:
        """Attribute by name, or a default."""
        return self.attributes.get(name, default)

    def shape_of(self, place: int) -> list[int] | None:
        """Shape of the weights at an operand's place; None: there are none."""
        operand = self.operands[place] if place < len(self.operands) else None
        return operand.weights if isinstance(operand, Weights) else None


_LIST = TypeAdapter(Annotated[list[Node], Field(min_length=1, max_length=20_000)])


def _parse(nodes: object) -> object:
    """Read nodes from JSON, in which files have them."""
    return _LIST.validate_json(nodes) if isinstance(nodes, str) else nodes


def _write(nodes: list[Node]) -> str:
    return _LIST.dump_json(nodes, exclude_defaults=True).decode()


Nodes = Annotated[
    list[Node],
    BeforeValidator(_parse),
    Field(min_length=1, max_length=20_000),
    PlainSerializer(_write, return_type=str),
]
"""Nodes in the order of computation; a text of JSON in files."""
