"""Records behave as frozen dataclasses do."""

import copy
import pickle
from dataclasses import FrozenInstanceError, asdict, dataclass, field, fields, is_dataclass, replace

import pytest

from sr_quant_cli.records import record, unique_record


@record
class Size:
    """A size."""

    height: int
    width: int = 1
    names: list[str] = field(default_factory=list)

    def __post_init__(self):
        if self.height < 0:
            raise ValueError("height")


@record
class Named(Size):
    """A size with a name."""

    name: str = ""

    def __repr__(self):
        return self.name


@unique_record
class Step:
    """A step."""

    count: int


@dataclass(frozen=True)
class Usual:
    """The frozen dataclass of the same fields."""

    height: int
    width: int = 1
    names: list[str] = field(default_factory=list)


def test_values_come_by_order_by_name_and_by_default():
    assert Size(2, width=3).width == 3
    assert Size(height=2) == Size(2, 1, [])
    assert Size(1).names is not Size(1).names
    assert repr(Size(2)) == repr(Usual(2)).replace("Usual", "Size")
    assert repr(Named(2, name="n")) == "n"


@pytest.mark.parametrize(
    ("values", "named"),
    [((), {}), ((1, 2, [], 4), {}), ((1,), {"height": 2}), ((1,), {"depth": 2}), ((1,), {"": 2})],
)
def test_other_values_are_refused_as_by_dataclasses(values, named):
    for cls in (Size, Usual):
        with pytest.raises(TypeError):
            cls(*values, **named)


def test_they_are_checked_frozen_and_compared():
    with pytest.raises(ValueError, match="height"):
        Size(-1)
    size = Size(2)
    with pytest.raises(FrozenInstanceError):
        size.height = 3
    with pytest.raises(FrozenInstanceError):
        del size.height
    assert Size(2) != Size(3) != Named(3)
    assert len({Step(1), Step(1)}) == 2
    assert Step(1) != Step(1)

    @record
    class Key:
        """A key."""

        name: str

    assert {Key("a"): 1}[Key("a")] == 1
    with pytest.raises(TypeError, match="unhashable"):
        hash(size)


def test_the_functions_of_dataclasses_take_them():
    named = Named(2, 3, ["x"], name="n")
    assert is_dataclass(named)
    assert [place.name for place in fields(Named)] == ["height", "width", "names", "name"]
    assert asdict(named) == {"height": 2, "width": 3, "names": ["x"], "name": "n"}
    assert replace(named, width=5).width == 5
    with pytest.raises(ValueError, match="height"):
        replace(named, height=-1)
    match named:
        case Named(height, width, name=name):
            assert (height, width, name) == (2, 3, "n")
    assert pickle.loads(pickle.dumps(named)) == copy.deepcopy(named) == named
