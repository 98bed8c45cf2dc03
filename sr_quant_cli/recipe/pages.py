"""Pages of methods: the module's docstring, the placements, and the built-in recipes."""

import inspect
import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any

from sr_quant_cli.methods import build, config_class, method_names
from sr_quant_cli.quant.sites import KINDS, Kind, Operands, Placement
from sr_quant_cli.recipe.load import named_recipes
from sr_quant_cli.recipe.reference import field_table, toml
from sr_quant_cli.recipe.schema import QuantizeRecipe
from sr_quant_cli.recipe.texts import recipe_text
from sr_quant_cli.registry import Registry

WRITTEN = "Written by `srq recipes methods`."
"""Line at the top of every page."""


def method_pages() -> dict[str, str]:
    """Markdown by file name: a page for each module of methods, and ``README.md``, a list."""
    modules: dict[str, list[str]] = {}
    for name in method_names():
        modules.setdefault(config_class(name).__module__, []).append(name)
    pages, entries = {}, []
    for names in modules.values():
        title, body = _text(config_class(names[0]))
        pages[f"{names[0]}.md"] = _page(title, body, names)
        entries.append(f"* [{title}]({names[0]}.md): `--method {'`, `--method '.join(names)}`")
    pages["README.md"] = "\n".join(["# Methods", "", WRITTEN, "", *entries]) + "\n"
    return pages


def titles(registry: Registry[Any, Any]) -> dict[str, str]:
    """First lines of the docstrings of the modules that define the registered classes, by name.

    Those of plugins end with the package or the file.
    """
    found = {}
    for name in registry.names():
        title, origin = _text(registry.config_class(name))[0], registry.origin(name)
        found[name] = title if origin is None else f"{title} ({origin})"
    return found


def _text(config: type) -> tuple[str, str]:
    """Title and body of the docstring of the module that defines a configuration."""
    title, _, body = (inspect.getdoc(inspect.getmodule(config)) or "").partition("\n")
    return title.rstrip("."), body


def _page(title: str, text: str, names: list[str]) -> str:
    body, _, references = text.partition("References\n----------\n")
    parts = [f"# {title}", "", WRITTEN, "", *_markdown(body.strip("\n").splitlines())]
    parts += ["", "## Where it quantizes", "", *_placements(names[-1])]
    parts += ["", "## Recipes", "", *_recipes(names)]
    for name in names:
        parts += [
            "",
            f'## Fields of `[method]`, name = "{name}"',
            "",
            *field_table(config_class(name)),
        ]
    parts += ["", "## Use", "", "```sh"]
    parts += [f"srq quantize --method {name} --w 4 --a 4 --data photos/" for name in names]
    parts += ["```"]
    if references:
        parts += ["", "## References", "", *_markdown(references.splitlines())]
    return "\n".join(parts) + "\n"


def _placements(name: str) -> Iterator[str]:
    """Table with a row for each kind of site and a column for each different placement."""
    columns: dict[str, Placement] = {}
    for variant in config_class(name).variants():
        placement = build(config_class(name)(name=name, variant=variant)).paper_placement()
        same = next((title for title, other in columns.items() if other == placement), None)
        if same is None:
            columns[variant] = placement
        else:
            columns[f"{same}, {variant}"] = columns.pop(same)
    if len(columns) == 1:
        columns["all variants"] = columns.popitem()[1]
    yield "With `--placement paper`. Other kinds of sites stay float, and a network may lack some"
    yield "of these. `--placement full` is the same for all methods: every convolution, with"
    yield "symmetric per-channel weights. [Recipes](../recipes.md) change kinds and single sites in"
    yield "`[sites]`."
    yield ""
    yield f"| site | meaning | {' | '.join(columns)} |"
    yield f"| --- | --- | {' | '.join('---' for _ in columns)} |"
    for kind, what in KINDS.items():
        if any(kind in placement for placement in columns.values()):
            cells = " | ".join(_operands(kind, placement) for placement in columns.values())
            yield f"| `{kind}` | {what} | {cells} |"


def _operands(kind: Kind, placement: Placement) -> str:
    operands = placement.get(kind, Operands())
    precisions = {"input": operands.input, "weight": operands.weight}
    texts = [f"{operand} {p}" for operand, p in precisions.items() if p != "fp32"]
    return ", ".join(texts) or "float"


def _recipes(names: list[str]) -> Iterator[str]:
    """Table of the fields that built-in recipes set, with a column for each recipe."""
    columns: dict[str, dict[str, str]] = {}
    for recipe_name, recipe in named_recipes().items():
        if isinstance(recipe, QuantizeRecipe) and recipe.method.name in names:
            values = tomllib.loads(recipe_text(recipe_name))
            columns[recipe_name] = {
                f"{section}.{key}": toml(value)
                for section, table in values.items()
                if section not in ("schema", "recipe")
                for key, value in table.items()
            }
            yield f"* `{recipe_name}`: {recipe.recipe.reference}"
    yield ""
    yield f"| field | {' | '.join(columns)} |"
    yield f"| --- | {' | '.join('---' for _ in columns)} |"
    for field in dict.fromkeys(field for column in columns.values() for field in column):
        yield f"| `{field}` | {' | '.join(column.get(field, '') for column in columns.values())} |"


def _markdown(lines: Iterable[str]) -> Iterator[str]:
    """Convert numpydoc text to Markdown: literals, simple tables, references.

    >>> rule = "====  ====="
    >>> list(_markdown([rule, "bits  what", rule, "2     ``a``", "      b", rule, "See [1]_."]))
    ['| bits | what |', '| --- | --- |', '| 2 | `a` b |', 'See [1].']
    """
    starts: list[int] = []
    rows: list[list[str]] = []
    for line in lines:
        text = re.sub(r"\.\. \[(\d+)\]", r"\1.", line.replace("``", "`"))
        if re.fullmatch(r"=+(  =+)+", line):
            if len(rows) > 1:
                yield from (f"| {' | '.join(row)} |" for row in rows)
                starts, rows = [], []
            elif rows:
                rows.append(["---"] * len(starts))
            else:
                starts = [match.start() for match in re.finditer("=+", line)]
        elif starts:
            ends = [*starts[1:], None]
            cells = [
                line[a:b].strip().replace("``", "`") for a, b in zip(starts, ends, strict=True)
            ]
            if cells[0]:
                rows.append(cells)
            else:
                rows[-1] = [
                    f"{old} {new}".strip() for old, new in zip(rows[-1], cells, strict=True)
                ]
        else:
            yield re.sub(r"(\[\d+\])_", r"\1", text)
