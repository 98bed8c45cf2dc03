"""Help of commands with many options, in groups."""

from collections.abc import Mapping, Sequence
from typing import Any

from typer.core import TyperCommand

from sr_quant_cli.cli.direct import convert_directly


def grouped(groups: Mapping[str, Sequence[str]]) -> type[TyperCommand]:
    """Make a class of commands whose help lists options in groups, converted directly.

    Parameters
    ----------
    groups
        Names of parameters by the titles of the groups; all others are listed last, as Options.
    """
    titles = {name: title for title, names in groups.items() for name in names}

    class Grouped(TyperCommand):
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            convert_directly(self.get_params(ctx), self.callback)
            return super().parse_args(ctx, args)

        def format_options(self, ctx: Any, formatter: Any) -> None:
            listed: dict[str, list[tuple[str, str]]] = {"Arguments": [], **{t: [] for t in groups}}
            for parameter in self.get_params(ctx):
                record = parameter.get_help_record(ctx)
                is_argument = parameter.param_type_name == "argument"
                title = titles.get(str(parameter.name), "Options")
                if record is not None:
                    listed.setdefault("Arguments" if is_argument else title, []).append(record)
            for title, records in listed.items():
                with formatter.section(title):
                    formatter.write_dl(records)

    return Grouped
