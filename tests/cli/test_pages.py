import re
from pathlib import Path

import typer

from sr_quant_cli.cli.pages import WRITTEN, command_pages, write
from sr_quant_cli.cli.tree import app

COMMANDS = Path(__file__).parents[2] / "docs/commands"


def test_the_pages_on_commands_are_what_help_says():
    written = {path.name: path.read_text() for path in COMMANDS.iterdir()}
    assert written == command_pages(), f"{WRITTEN} Write them again."


def test_every_option_of_every_command_is_on_its_page():
    pages = command_pages()
    for name, command in typer.main.get_command(app).commands.items():
        kinds = [command, *getattr(command, "commands", {}).values()]
        options = [
            option
            for kind in kinds
            for parameter in kind.params
            for option in parameter.opts
            if option.startswith("-") and not (kind.hidden or command.hidden or parameter.hidden)
        ]
        missing = [
            option
            for option in options
            if not re.search(rf"^\* `(.*, )?{option}[`, ]", pages[f"{name}.md"], re.MULTILINE)
        ]
        assert not missing, name


def test_a_page_has_groups_ranges_and_examples(tmp_path):
    write(tmp_path)
    page = (tmp_path / "upscale.md").read_text()
    for text in ("\n## Size\n", "(1 to 100)", "(default: 1G)", "```sh\nsrq upscale photo.jpg\n"):
        assert text in page
    assert "\n## srq models add\n" in (tmp_path / "models.md").read_text()
    assert "\b" not in "".join(path.read_text() for path in tmp_path.iterdir())
