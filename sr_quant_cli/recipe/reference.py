"""Reference of all recipe fields, generated from the schema."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt, MaxLen, MinLen
from pydantic import BaseModel, PlainSerializer
from pydantic.fields import FieldInfo

from sr_quant_cli.methods import config_class as method_config_class
from sr_quant_cli.methods import method_names
from sr_quant_cli.networks import network_names
from sr_quant_cli.quant.sites import KINDS, has_weight
from sr_quant_cli.recipe.schema import (
    ANY,
    DistillRecipe,
    PretrainRecipe,
    QuantizeRecipe,
    TrainingRecipe,
    network_class,
)
from sr_quant_cli.recipe.sites import SiteChanges, SitesSection

_PRECISION = '`"fp32"`, `"int8"`, `"low"`, 2 to 8 or levels as `"29L"`, or a table of these'

_RECIPES: dict[str, type[TrainingRecipe]] = {
    "pretrain": PretrainRecipe,
    "quantize": QuantizeRecipe,
    "distill": DistillRecipe,
}


def reference() -> str:
    """Markdown page with all tables and fields of all kinds of recipes."""
    parts = [
        "# Recipe fields",
        "",
        "Written by `srq recipes fields`. A recipe is a TOML file; fields that it leaves out have",
        "the defaults given here. Unknown fields and wrong types are errors. `--set",
        "table.field=value` changes a field.",
    ]
    seen: dict[type[BaseModel], str] = {}
    for task, recipe in _RECIPES.items():
        parts += ["", f"## srq {task}"]
        elsewhere, here = [], []
        for name, field in recipe.model_fields.items():
            section = field.annotation
            if name in ("network", "method"):
                elsewhere.append(f"- `[{name}]`: see [{name}s](#{name}s)")
            elif section is SiteChanges:
                meaning = (field.description or "").replace("\n", " ")
                elsewhere.append(f"- `[{name}]`: {meaning}")
            elif isinstance(section, type) and issubclass(section, BaseModel):
                if section in seen:
                    elsewhere.append(f"- `[{name}]`: as for `srq {seen[section]}`")
                    continue
                seen[section] = task
                here += ["", f"### [{name}] of {task}", "", *field_table(section)]
        parts += ["", *elsewhere, *here]
    for kind, names, find in (
        ("network", [*network_names(), ANY], network_class),
        ("method", method_names(), method_config_class),
    ):
        parts += ["", f"## {kind.capitalize()}s"]
        for name in names:
            parts += ["", f'### name = "{name}"', "", *field_table(find(name))]
    return "\n".join(parts) + "\n"


def field_table(section: type[BaseModel]) -> Iterator[str]:
    """Rows of a Markdown table with all fields of a section."""
    yield "| field | type | default | meaning |"
    yield "| --- | --- | --- | --- |"
    for name, field in section.model_fields.items():
        default = (
            "required"
            if field.is_required()
            else f"`{toml(field.get_default(call_default_factory=True))}`"
        )
        meaning = (field.description or "").replace("\n", " ").replace("|", "\\|")
        yield f"| `{field.alias or name}` | {_type(field)} | {default} | {meaning} |"
    if section is SitesSection:
        yield from _site_rows()


def _site_rows() -> Iterator[str]:
    """Rows of the fields that name a kind of site, or a single site."""
    kinds = {f"`{kind}`": (meaning, has_weight(kind)) for kind, meaning in KINDS.items()}
    single = "a single site, which `srq info` lists; it takes precedence over its kind"
    for name, (meaning, weighted) in (kinds | {'`"body.3.conv2"`': (single, True)}).items():
        operands = "`input` and `weight`" if weighted else "`input`"
        yield f"| {name} | {_PRECISION} for {operands} | | {meaning} |"


def _type(field: FieldInfo) -> str:
    text = _type_name(field.annotation)
    if any(isinstance(each, PlainSerializer) for each in field.metadata):
        text = '2 to 8, or levels as `"29L"`'
    signs = {Ge: ">=", Gt: ">", Le: "<=", Lt: "<", MinLen: "at least", MaxLen: "at most"}
    limits = [
        f"{sign} {getattr(limit, kind.__name__.lower().replace('len', '_length'))}"
        for limit in field.metadata
        for kind, sign in signs.items()
        if isinstance(limit, kind)
    ]
    return f"{text}, {', '.join(limits)}" if limits else text


def _type_name(annotation: Any) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{toml(value)}`" for value in get_args(annotation))
    if get_origin(annotation) is Annotated:
        return _type_name(get_args(annotation)[0])
    if get_origin(annotation) is list:
        return f"list of {_type_name(get_args(annotation)[0])}"
    names = {int: "integer", float: "number", str: "text", bool: "true or false"}
    return names.get(annotation, str(annotation))


def toml(value: Any) -> str:
    """Format a value as in a recipe."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key} = {toml(entry)}' for key, entry in value.items())}}}"
    return str(value)
