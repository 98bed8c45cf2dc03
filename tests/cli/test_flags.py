"""Parameters that messages name, as options of the command line."""

import pytest
from typer.main import get_command

from sr_quant_cli.cli.app import app
from sr_quant_cli.cli.usage import _flags, in_flags
from sr_quant_cli.errors import UsageError


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        (
            str(UsageError("must be 2, 3 or 4", field="scale", value=5)),
            "--scale 5: must be 2, 3 or 4",
        ),
        (
            str(UsageError("only with `patchwise`", field="bit_map")),
            "--bit-map: only with --patchwise",
        ),
        ("no such file: `own`.png", "no such file: own.png"),
    ],
)
def test_parameters_are_named_as_options(message, shown):
    assert in_flags(str(message), get_command(app)) == shown


def test_a_parameter_is_the_same_option_in_all_commands():
    flags = {}
    for name, flag in _flags(get_command(app)):
        assert flags.setdefault(name, flag) == flag
    assert flags["max_time"] == "--max-time"
