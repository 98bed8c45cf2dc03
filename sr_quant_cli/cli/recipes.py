"""``srq recipes list|show|copy|fields|methods|networks``."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from sr_quant_cli.cli.options import Json
from sr_quant_cli.report.terminal import say

app = typer.Typer(
    help="Built-in recipes: list, show, copy; methods, networks, fields.",
    rich_markup_mode=None,
)


@app.command("list")
def list_recipes(json: Json = None) -> None:
    """List the built-in recipes, and those of plugins.

    \b
    Example:
      srq recipes list
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.recipe.load import named_recipes
    from sr_quant_cli.system.files import write_json

    infos = [recipe.recipe for recipe in named_recipes().values()]
    _print_names({info.name: info.description for info in infos})
    if json is not None:
        write_json(json, {"recipes": [info.model_dump() for info in infos]})


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(metavar="NAME|FILE", help="Recipe.")],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change a field; may be repeated."),
    ] = None,
) -> None:
    """Print a recipe with all its fields, including defaults.

    \b
    Example:
      srq recipes show pretrain-edsr --set network.scale=2
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.recipe.load import dump_recipe, load_recipe

    print(dump_recipe(load_recipe(recipe, overrides or ())), end="")


@app.command()
def copy(
    recipe: Annotated[str, typer.Argument(metavar="NAME", help="Built-in recipe.")],
    target: Annotated[Path, typer.Argument(metavar="FILE", help="File to write, *.toml.")],
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace FILE.")] = False,
) -> None:
    """Copy a built-in recipe to edit it and use it with --recipe.

    \b
    Example:
      srq recipes copy pretrain-edsr my.toml
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.errors import UsageError, unknown
    from sr_quant_cli.recipe.texts import has_recipe, recipe_names, recipe_text
    from sr_quant_cli.system.files import replacing

    if not has_recipe(recipe):
        raise unknown("recipe", recipe, recipe_names())
    if target.suffix != ".toml":
        raise UsageError(f"{target}: the name of a recipe must end in .toml")
    if target.exists() and not overwrite:
        raise UsageError(f"{target} exists; use --overwrite to replace it")
    with replacing(target) as temporary:
        temporary.write_text(recipe_text(recipe), encoding="utf-8")
    say(f"{recipe} -> {target}")


@app.command()
def fields() -> None:
    """Print the reference of all recipe fields as Markdown.

    \b
    Example:
      srq recipes fields > docs/recipes.md
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.recipe.reference import reference

    print(reference(), end="")


@app.command()
def methods(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Folder for pages in Markdown.")
    ] = None,
) -> None:
    """List the methods, or write a page on each.

    A page has formulas, variants, sites, recipes and fields.

    \b
    Examples:
      srq recipes methods
      srq recipes methods docs/methods
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.methods import REGISTRY
    from sr_quant_cli.recipe.pages import WRITTEN, method_pages, titles
    from sr_quant_cli.system.files import check_own, replacing

    if folder is None:
        _print_names(titles(REGISTRY))
        return
    pages = method_pages()
    for name in pages:
        check_own(folder / name, WRITTEN.encode())
    for name, text in pages.items():
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    say(folder)


@app.command()
def networks() -> None:
    """List the networks.

    \b
    Example:
      srq recipes networks
    """  # noqa: D301 - typer's \b keeps the line breaks
    from sr_quant_cli.networks import REGISTRY
    from sr_quant_cli.recipe.pages import titles

    _print_names(titles(REGISTRY))


def _print_names(titles: Mapping[str, str]) -> None:
    width = max(map(len, titles))
    for name, title in titles.items():
        say(f"{name:{width}}  {title}")
