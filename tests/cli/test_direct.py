"""Values of options, converted without pydantic: as Typer converts them, errors included."""

from typing import Annotated, Any, Literal

import pytest
import typer

from sr_quant_cli.cli.direct import DirectGroup
from sr_quant_cli.cli.grouped import grouped
from sr_quant_cli.cli.tree import app, needed
from sr_quant_cli.errors import UsageError


def half(text):
    if text == "odd":
        raise UsageError("must be even", field="half", value=text)
    return int(text) // 2


def app_of(seen, cls, group):
    made = typer.Typer(cls=group)

    @made.callback()
    def top(verbose: bool = False) -> None:
        seen["verbose"] = verbose

    @made.command(cls=cls)
    def run(
        names: Annotated[list[str], typer.Argument(parser=str.upper)],
        text: Annotated[str | None, typer.Option()] = None,
        number: Annotated[int | None, typer.Option(min=2, max=9)] = None,
        below: Annotated[int, typer.Option(max=9)] = 4,
        kind: Annotated[Literal["all", "first"], typer.Option()] = "all",
        parsed: Annotated[Any, typer.Option(parser=half)] = "8",
        shouted: Annotated[str, typer.Option(callback=lambda text: text + "!")] = "a",
        share: Annotated[float, typer.Option()] = 0.5,
        on: Annotated[bool, typer.Option("--on")] = False,
    ) -> None:
        seen.update(locals())

    return made


LINES = [
    ["a"],
    ["a", "b", "--text", "x", "--number", "2", "--below", "-3", "--kind", "first", "--on"],
    ["a", "--parsed", "10", "--shouted", "b", "--share", "0.25", "--number", "9"],
    ["a", "--number", "1"],
    ["a", "--number", "10"],
    ["a", "--number", "x"],
    ["a", "--number", "٣"],
    ["a", "--below", "99999999999999999999999"],
    ["a", "--kind", "some"],
    ["a", "--parsed", "no number"],
    ["a", "--parsed", "odd"],
    ["", "--parsed", "", "--text", ""],
    ["", "--text", ""],
    ["a", "--share", "x"],
    [],
]


def outcome(arguments, cls=None, group=None):
    seen = {}
    try:
        app_of(seen, cls, group)(["run", *arguments], standalone_mode=False)
    except Exception as error:
        shown = error.format_message() if hasattr(error, "format_message") else str(error)
        return type(error), shown
    return {name: value for name, value in seen.items() if name != "seen"}


@pytest.mark.parametrize("arguments", LINES, ids=" ".join)
def test_values_and_errors_are_those_of_typer(arguments):
    direct = outcome(arguments, grouped({}), DirectGroup)
    assert direct == outcome(arguments)


def test_some_values_are_right_and_some_are_not():
    outcomes = [outcome(line, grouped({}), DirectGroup) for line in LINES]
    assert [isinstance(found, dict) for found in outcomes[:5]] == [True, True, True, False, False]
    assert outcomes[0]["names"] == ["A"]
    assert (outcomes[1]["number"], outcomes[1]["below"], outcomes[2]["parsed"]) == (2, -3, 5)
    assert outcomes[2]["shouted"] == "b!"


def test_only_the_command_that_is_named_is_made():
    upscale, models, none = (needed(line) for line in (["upscale", "x"], ["models"], ["--help"]))
    assert len(upscale.registered_commands) == 1
    assert not upscale.registered_groups
    assert [group.name for group in models.registered_groups] == ["models"]
    assert none is needed(["upscal"]) is needed([]) is app
