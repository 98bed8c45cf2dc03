"""Study files: a grid of models, methods and bits, with budget, evaluation and tables, in TOML."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PlainValidator,
    ValidationError,
    field_validator,
    model_validator,
)

from sr_quant_cli.data.benchmark import usual_name
from sr_quant_cli.errors import UsageError, together, unknown
from sr_quant_cli.methods import REGISTRY as METHODS
from sr_quant_cli.methods import method_names
from sr_quant_cli.metrics import get_protocol
from sr_quant_cli.networks import REGISTRY as NETWORKS
from sr_quant_cli.networks import network_names
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.widths import MAX_BITS, check_weight_width, check_width
from sr_quant_cli.recipe.load import Change, parse_toml, problem_lines, read_text
from sr_quant_cli.recipe.schema import MOST_STEPS, Patches, Section
from sr_quant_cli.recipe.sites import PlacementName, quoted
from sr_quant_cli.runtimes.registry import get_runtime

Axis = Literal[
    "model",
    "network",
    "scale",
    "method",
    "recipe",
    "bits",
    "placement",
    "variant",
    "iters",
    "seed",
]
"""Field of a cell."""
AXES: tuple[str, ...] = get_args(Axis)
SetMetric = Literal["psnr", "ssim", "drop", "published_psnr", "published_drop", "fab"]
ModelMetric = Literal["bytes", "bitops", "ms", "steps", "seconds"]
Metric = Literal[SetMetric, ModelMetric]
SET_METRICS: tuple[SetMetric, ...] = get_args(SetMetric)
"""Figures of a cell for each benchmark set; the other metrics are figures of its model."""

_FIXED = ("bits", "network", "recipe", "method.name", "sites.placement", "train.iters")
"""Recipe fields that a study sets by fields of its cells."""


def check_bit_pair(value: object) -> Bits:
    """Read bits of weights and activations: ``"w4a4"``, ``[4, 4]``, or ``4`` for both.

    Numbers above 8 are levels, with or without an ``L``.

    >>> str(check_bit_pair("w29a6")), str(check_bit_pair([4, "29L"])), str(check_bit_pair(3))
    ('w29La6', 'w4a29L', 'w3a3')

    Raises
    ------
    ValueError
        It is none of these.
    """
    if isinstance(value, Bits):
        return value
    if isinstance(value, str) and (found := re.fullmatch(r"w(\d{1,3}L?)a(\d{1,3}L?)", value)):
        pair: list[object] = [int(each) if each.isdecimal() else each for each in found.groups()]
    else:
        pair = value if isinstance(value, list) else [value, value]
    try:
        w, a = (f"{each}L" if type(each) is int and each > MAX_BITS else each for each in pair)
        return Bits(check_weight_width(w), check_width(a))
    except ValueError as error:
        raise ValueError(
            "must be bits of weights and activations, as w4a4, w29a6 (29 levels) or [4, 4]"
        ) from error


BitPair = Annotated[Bits, PlainValidator(check_bit_pair)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Iters = Annotated[int, Field(ge=0, le=MOST_STEPS)]
Fragment = dict[str, Any]
"""Part of a recipe: tables with fields."""


class CellSection(Section):
    """``[[cells]]``: one more cell; what is left out is the recipe's."""

    model: str | None = None
    """model to start from: name, file or run folder; left out: the embedded one or a trained one"""
    network: str | None = None
    """network to start from, in place of a model: embedded, else trained by its recipe"""
    scale: int | None = None
    """scale of the model"""
    method: str | None = None
    """method"""
    recipe: str | None = None
    """name or file of the recipe; left out: METHOD-NETWORK"""
    bits: BitPair | None = None
    """bits of weights and activations: "w4a4", "w29a6" (29 levels), [4, 4], or 4 for both"""
    placement: PlacementName | None = None
    """paper or full"""
    variant: str | None = None
    """name of a table in [variants]"""
    iters: Iters | None = None
    """training steps, to which the schedule is scaled; left out: those of [budget]"""
    seed: Seed | None = None
    """seed of weights, data order and augmentation"""


class GridSection(Section):
    """``[grid]``: every combination of the values is a cell."""

    model: list[str] = Field(default=[])
    """models to start from"""
    network: list[str] = Field(default=[])
    """networks to start from, in place of models"""
    scale: list[int] = Field(default=[])
    """scales"""
    method: list[str] = Field(default=[])
    """methods"""
    recipe: list[str] = Field(default=[])
    """names or files of recipes"""
    bits: list[BitPair] = Field(default=[])
    """bits, each as in [[cells]]"""
    placement: list[PlacementName] = Field(default=[])
    """paper, full"""
    variant: list[str] = Field(default=[])
    """names of tables in [variants]"""
    iters: list[Iters] = Field(default=[])
    """training steps"""
    seed: list[Seed] = Field(default=[])
    """seeds"""


def _several(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _bit_pairs(value: object) -> object:
    """Read bits, or a list of them; a list of two numbers is one pair."""
    try:
        return [check_bit_pair(value)]
    except ValueError:
        return [check_bit_pair(each) for each in _several(value)]


class SkipSection(Section):
    """``[[skip]]``: leaves out the cells that have all these values; a list is any of them."""

    model: Annotated[list[str], BeforeValidator(_several)] = Field(default=[])
    network: Annotated[list[str], BeforeValidator(_several)] = Field(default=[])
    scale: Annotated[list[int], BeforeValidator(_several)] = Field(default=[])
    method: Annotated[list[str], BeforeValidator(_several)] = Field(default=[])
    recipe: Annotated[list[str], BeforeValidator(_several)] = Field(default=[])
    bits: Annotated[list[BitPair], BeforeValidator(_bit_pairs)] = Field(default=[])
    placement: Annotated[list[PlacementName], BeforeValidator(_several)] = Field(default=[])
    variant: Annotated[list[str], BeforeValidator(_several)] = Field(default=[])
    iters: Annotated[list[int], BeforeValidator(_several)] = Field(default=[])
    seed: Annotated[list[int], BeforeValidator(_several)] = Field(default=[])


class BudgetSection(Section):
    """``[budget]``: what every cell may spend; what is left out is the recipe's."""

    iters: Iters | None = None
    """training steps of methods that train; those that only calibrate have none"""
    stage_iters: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    """training steps of every stage before a cell; left out: in proportion to those of the cell"""
    batch: Patches | None = None
    """patches per step"""
    minutes: Annotated[float, Field(gt=0)] | None = None
    """longest training of a cell, without its stages; its model is the one of that time"""
    calibration_images: Patches | None = None
    """patches of the calibration"""


class PretrainSection(Section):
    """``[pretrain]``: how full-precision networks are trained that cells start from."""

    recipe: str = ""
    """name or file of the recipe; empty: pretrain-NETWORK"""
    iters: Annotated[int, Field(ge=1, le=MOST_STEPS)] | None = None
    """training steps; left out: the recipe's"""
    set_: Fragment = Field(default={}, alias="set")
    """changes of that recipe"""


class EvaluateSection(Section):
    """``[evaluate]``: how every cell is scored."""

    bench: list[str] = Field(default=["Set5"], min_length=1)
    """benchmark sets"""
    protocol: str = "matlab"
    """protocol of PSNR and SSIM"""
    patchwise: bool = False
    """enlarge each patch on its own, as papers on dynamic bit widths do"""
    kernels: bool = False
    """score on srq's integer kernels the models that they run whole; the others are simulated"""

    @model_validator(mode="after")
    def _whole_pictures_on_kernels(self) -> Self:
        if self.kernels and self.patchwise:
            raise ValueError("kernels: patches are enlarged without them, leave patchwise out")
        return self

    @field_validator("bench")
    @classmethod
    def _usual(cls, names: list[str]) -> list[str]:
        return list(dict.fromkeys(map(usual_name, names)))


class BenchSection(Section):
    """``[bench]``: exported graphs are timed; without this table they are not."""

    size: Annotated[str, Field(pattern=r"^[1-9]\d{0,3}x[1-9]\d{0,3}$")] = "320x180"
    """LR pixels of the picture, WIDTHxHEIGHT"""
    threads: Annotated[int, Field(ge=1, le=512)] = 1
    """CPU threads"""
    runtimes: list[str] = Field(default=["srq", "onnxruntime"], min_length=1)
    """runtimes to time; tables show the fastest"""
    runs: Annotated[int, Field(ge=1, le=1000)] = 7
    """timed runs, of which the median counts"""


class TableSection(Section):
    """``[[tables]]``: one table and its plots."""

    name: Annotated[str, Field(pattern=r"^[\w-]+$")]
    """name of its files"""
    title: str = ""
    """caption; empty: the name"""
    where: SkipSection = SkipSection()
    """values of the cells to show, as in [[skip]]; empty: all"""
    rows: list[Axis] = Field(default=["method", "bits"])
    """fields that make rows; fields with several values that are named nowhere are added"""
    columns: list[Axis] = Field(default=[])
    """fields that make columns, each with the metrics of every set"""
    bench: list[str] = Field(default=[])
    """benchmark sets; empty: all"""
    metrics: list[Metric] = Field(default=["psnr", "ssim", "drop"], min_length=1)
    """per set: psnr, ssim, drop, published_psnr, published_drop, fab; per model: bytes, bitops, ms,
    steps, seconds"""

    @model_validator(mode="after")
    def _once(self) -> Self:
        twice = [axis for axis in self.rows if axis in self.columns]
        if twice:
            raise ValueError(f"columns: {twice[0]} makes rows already")
        if "seed" in (*self.rows, *self.columns):
            raise ValueError("rows: seeds are averaged; seed makes no rows or columns")
        return self


OrderKey = Literal[Axis, "cost"]


class Study(Section):
    """A study file."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    """version of the format"""
    name: Annotated[str, Field(pattern=r"^[\w.-]+$")]
    """name of the study"""
    description: str = ""
    """one line"""
    data: str = ""
    """training photographs: a folder, or the names that --data takes; empty: the recipes'"""
    order: list[OrderKey] = Field(default=["seed", "cost"])
    """what comes first: the first values of these fields, or the cells with the fewest steps"""
    grid: GridSection = GridSection()
    cells: list[CellSection] = Field(default=[])
    skip: list[SkipSection] = Field(default=[])
    budget: BudgetSection = BudgetSection()
    pretrain: PretrainSection | None = None
    set_: Fragment = Field(default={}, alias="set")
    """changes of the recipes of all cells, as in a recipe"""
    methods: dict[str, Fragment] = Field(default={})
    """changes for single methods, as [methods.NAME]"""
    variants: dict[str, Fragment] = Field(default={})
    """changes for the cells with that variant, as [variants.NAME]"""
    evaluate: EvaluateSection = EvaluateSection()
    bench: BenchSection | None = None
    tables: list[TableSection] = Field(default=[])

    def all_cells(self) -> "list[Cell]":
        """List the cells of the grid and the single ones, without those to skip."""
        axes = {axis: getattr(self.grid, axis) or [None] for axis in AXES}
        given = any(getattr(self.grid, axis) for axis in AXES)
        grid = [Cell(*values) for values in product(*axes.values())] if given else []
        single = [Cell(*(getattr(each, axis) for axis in AXES)) for each in self.cells]
        unique = dict.fromkeys([*grid, *single])
        return [cell for cell in unique if not any(cell.matches(skip) for skip in self.skip)]

    def changes(self, cell: "Cell", method: str) -> tuple[Change, ...]:
        """List the changes of a cell's recipe, the more special ones last."""
        budget = {"train.batch": "batch", "calibration.images": "calibration_images"}
        stated = [
            Change(key, value, f"budget.{name} = {value}")
            for key, name in budget.items()
            if (value := getattr(self.budget, name)) is not None
        ]
        if cell.seed is not None:
            stated.append(Change("recipe.seed", cell.seed, f"seed = {cell.seed}"))
        parts = [("set", self.set_), (f"methods.{method}", self.methods.get(method, {}))]
        if cell.variant is not None:
            parts.append((f"variants.{cell.variant}", self.variants[cell.variant]))
        return (*stated, *(c for place, part in parts for c in fragment_changes(part, place)))


@dataclass(frozen=True)
class Cell:
    """One combination of a study; None: left to the recipe."""

    model: str | None = None
    network: str | None = None
    scale: int | None = None
    method: str | None = None
    recipe: str | None = None
    bits: Bits | None = None
    placement: PlacementName | None = None
    variant: str | None = None
    iters: int | None = None
    seed: int | None = None

    def matches(self, wanted: SkipSection) -> bool:
        """Tell if the cell has the values of a selection."""
        return all(
            getattr(self, axis) in values for axis in AXES if (values := getattr(wanted, axis))
        )

    def __str__(self) -> str:
        """Stated fields, for messages."""
        stated = {f.name: getattr(self, f.name) for f in fields(self)}
        return " ".join(f"{k}={v}" for k, v in stated.items() if v is not None)


def fragment_changes(fragment: Mapping[str, Any], place: str) -> Iterator[Change]:
    """Turn a part of a recipe into changes.

    Parameters
    ----------
    place
        Table of the study file, for messages.

    Examples
    --------
    >>> [c.key for c in fragment_changes({"sites": {"body.0": {"input": 6}}}, "set")]
    ['sites."body.0".input']
    """
    for key, value in fragment.items():
        if isinstance(value, dict):
            for change in fragment_changes(value, f"{place}.{quoted(key)}"):
                inner = f"{quoted(key)}.{change.key}"
                yield Change(inner, change.value, change.given)
        else:
            yield Change(quoted(key), value, f"{place}.{quoted(key)} = {value}")


_SECTIONS: dict[str, type[BaseModel]] = {
    "grid": GridSection,
    "cells": CellSection,
    "skip": SkipSection,
    "budget": BudgetSection,
    "pretrain": PretrainSection,
    "evaluate": EvaluateSection,
    "bench": BenchSection,
    "tables": TableSection,
}


def load_study(path: Path) -> Study:
    """Read and validate a study file.

    Raises
    ------
    UsageError
        The file has errors, one line each: file and key path, what is allowed, nearest name.
    """
    origin = str(path)
    values = parse_toml(read_text(path, "study"), origin)
    try:
        study = Study.model_validate(values)
    except ValidationError as error:
        keys = [field.alias or name for name, field in Study.model_fields.items()]
        tables = dict.fromkeys(keys, Section) | _SECTIONS
        raise UsageError(together(problem_lines(error, origin, tables))) from error
    problems = [f"{origin}: {problem}" for problem in _problems(study)]
    if problems:
        raise UsageError(together(problems))
    return study


def _problems(study: Study) -> Iterator[str]:
    """Yield what is wrong between the fields of a study."""
    for cell in study.all_cells():
        if cell.method is None and cell.recipe is None:
            yield f"{str(cell) or 'a cell'}: needs a method, or a recipe"
        if cell.model is not None and cell.network is not None:
            yield f"model = {cell.model}: has a network of its own; leave network out"
        if cell.method is not None and cell.method not in METHODS:
            yield f"{unknown('method', cell.method, method_names())}"
        if cell.network is not None and cell.network not in NETWORKS:
            yield f"{unknown('network', cell.network, network_names())}"
        if cell.variant is not None and cell.variant not in study.variants:
            yield f"{unknown('variant', cell.variant, list(study.variants))}"
    if not study.all_cells():
        yield "has no cells: give [grid] lists of values, or add [[cells]]"
    fragments = {
        "set": study.set_,
        **{f"methods.{name}": part for name, part in study.methods.items()},
        **{f"variants.{name}": part for name, part in study.variants.items()},
    }
    for place, part in fragments.items():
        for change in fragment_changes(part, place):
            if any(f"{change.key}.".startswith(f"{key}.") for key in _FIXED):
                yield f"{place}.{change.key}: is set by the fields of cells; leave it out here"
    names = [table.name for table in study.tables]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        yield f"tables: two are called {name}"
    scored = study.evaluate.bench
    for table in study.tables:
        for bench in map(usual_name, table.bench):
            if bench not in scored:
                yield f"tables.{table.name}.bench: {bench} is not in evaluate.bench"
    try:
        get_protocol(study.evaluate.protocol)
        for name in study.bench.runtimes if study.bench else ():
            get_runtime(name)
    except UsageError as error:
        yield str(error)
