"""The plan of a study: its cells in order, and the trainings that each needs."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

from sr_quant_cli.commands import pretrain
from sr_quant_cli.commands.pretrain import PretrainRequest
from sr_quant_cli.commands.quantize_recipe import (
    QuantizeRequest,
    builtin_recipe,
    default_recipe,
    resolve,
)
from sr_quant_cli.commands.stages import (
    Origin,
    content_hash,
    files_stated,
    requests_in_order,
    shortened,
    stage_hash,
)
from sr_quant_cli.data.benchmark import BenchmarkSet, data_root, find_set
from sr_quant_cli.data.photographs import Photographs
from sr_quant_cli.errors import SrqError, UsageError, together
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.modelfiles.loading import load, name_of
from sr_quant_cli.modelfiles.named import full_precision_model, has_embedded_model, identify
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import Change, load_recipe, parse_changes
from sr_quant_cli.recipe.schema import PretrainRecipe, QuantizeRecipe, TrainingRecipe
from sr_quant_cli.recipe.study import AXES, Cell, Study, fragment_changes
from sr_quant_cli.training.run import TrainingOptions, locate, photographs_of


@dataclass(frozen=True)
class Chain:
    """Trainings that make a model, each from the one before.

    Attributes
    ----------
    key
        Hash of everything that decides the weights.
    start
        Full-precision model, or the training that makes it.
    requests
        Quantizations in order; the last one makes the model. Empty: it is the start.
    title
        Name for messages.
    steps
        Steps of the last training.
    """

    key: str
    start: Path | PretrainRequest
    requests: tuple[QuantizeRequest, ...]
    title: str
    steps: int

    @property
    def is_given(self) -> bool:
        """True if the model exists already and nothing is trained."""
        return not self.requests and isinstance(self.start, Path)


@dataclass(frozen=True)
class PlannedCell:
    """A cell that can run.

    Attributes
    ----------
    name
        Name of its record and of its row.
    fields
        Values that identify it in a row: model, network, scale, method, bits, and so on; those of
        a full-precision model have no method.
    config
        Configuration of its network.
    chains
        Trainings that lead to its model, itself last.
    reference
        Name of the full-precision cell that it is compared with.
    """

    name: str
    fields: Mapping[str, Any]
    config: Mapping[str, Any]
    chains: tuple[Chain, ...]
    reference: str

    @property
    def steps(self) -> int:
        """Steps of all trainings that lead to its model."""
        return sum(chain.steps for chain in self.chains if chain.requests)


@dataclass(frozen=True)
class BadCell:
    """A cell that cannot run, and the reason."""

    name: str
    fields: Mapping[str, Any]
    problem: str


@dataclass(frozen=True)
class StudyPlan:
    """Cells of a study in the order in which they run.

    Attributes
    ----------
    references
        Full-precision models, which cells are compared with.
    sets
        Benchmark sets by scale.
    """

    study: Study
    cells: tuple[PlannedCell, ...]
    references: tuple[PlannedCell, ...]
    bad: tuple[BadCell, ...]
    sets: Mapping[int, tuple[BenchmarkSet, ...]]

    @property
    def rows(self) -> tuple[PlannedCell, ...]:
        """Full-precision models, then the cells."""
        return (*self.references, *self.cells)

    def stages(self) -> dict[str, tuple[Chain, list[str]]]:
        """Trainings that come before cells, by key, each with the cells that begin with it."""
        found: dict[str, tuple[Chain, list[str]]] = {}
        for cell in self.cells:
            for chain in cell.chains[:-1]:
                if not chain.is_given:
                    found.setdefault(chain.key, (chain, []))[1].append(cell.name)
        return found

    @cached_property
    def _pictures(self) -> dict[int, list[list[list[str | int]]]]:
        """Files of the benchmark sets, by scale, for fingerprints."""
        return {
            scale: [files_stated(each.pairs) for each in sets] for scale, sets in self.sets.items()
        }

    def fingerprint(self, cell: PlannedCell, part: str) -> str:
        """Hash of everything that a part of a record follows: ``model``, ``scores``, ``times``."""
        study = self.study
        inputs: list[Any] = [cell.chains[-1].key, study.budget.minutes]
        if part == "scores":
            inputs += [study.evaluate.model_dump(), self._pictures[cell.fields["scale"]]]
        if part == "times":
            inputs.append(study.bench and study.bench.model_dump())
        return sha256(json.dumps(inputs).encode()).hexdigest()[:16]


def plan_study(study: Study, options: TrainingOptions) -> StudyPlan:
    """Plan a study; nothing is written.

    Parameters
    ----------
    options
        Photographs, device, threads and data root of all trainings.

    Raises
    ------
    UsageError
        A benchmark set is missing, two cells have one name, or no cell can run.
    """
    planner = _Planner(study, options)
    cells: list[PlannedCell] = []
    bad: list[BadCell] = []
    for cell in study.all_cells():
        try:
            cells.append(planner.plan(cell))
        except SrqError as error:
            stated = {axis: _plain(getattr(cell, axis)) for axis in AXES}
            name = "-".join(f"{value}" for value in stated.values() if value is not None)
            bad.append(BadCell(_file_name(name), stated, str(error).replace("\n", "; ")))
    if not cells:
        raise UsageError(together(each.problem for each in bad))
    names = [cell.name for cell in cells]
    for name in dict.fromkeys(name for name in names if names.count(name) > 1):
        raise UsageError(f"two cells are called {name}: start models need different names")
    scales = dict.fromkeys(cell.fields["scale"] for cell in cells)
    root = data_root(options.data_root)
    sets = {
        scale: tuple(find_set(name, scale, root) for name in study.evaluate.bench)
        for scale in scales
    }
    used = dict.fromkeys(cell.reference for cell in cells)
    references = tuple(planner.references[name] for name in used)
    return StudyPlan(study, tuple(_ordered(study, cells)), references, tuple(bad), sets)


def _ordered(study: Study, cells: list[PlannedCell]) -> list[PlannedCell]:
    def rank(cell: PlannedCell) -> list[int]:
        return [
            cell.steps if key == "cost" else values[key].index(cell.fields[key])
            for key in study.order
        ]

    values = {axis: list(dict.fromkeys(cell.fields[axis] for cell in cells)) for axis in AXES}
    return sorted(cells, key=rank)


@dataclass(frozen=True)
class _Start:
    """A full-precision model that cells start from."""

    origin: Origin
    chain: Chain
    content: str
    reference: str


@dataclass
class _Planner:
    study: Study
    options: TrainingOptions
    references: dict[str, PlannedCell] = field(default_factory=dict)
    _starts: dict[tuple[Any, ...], _Start] = field(default_factory=dict)
    _photographs: dict[str, Photographs] = field(default_factory=dict)

    @cached_property
    def _common(self) -> dict[str, Any]:
        names = ("data", "device", "threads", "data_root")
        return {name: getattr(self.options, name) for name in names}

    def plan(self, cell: Cell) -> PlannedCell:
        """Plan one cell.

        Raises
        ------
        UsageError
            It is not possible.
        """
        start = self._start(cell)
        origin = start.origin
        request = self._request(cell, origin)
        *stages, last = requests_in_order(request, origin)
        requests = [*map(self._stage, stages), last]
        chains, key = [start.chain], start.content
        for index, each in enumerate(requests):
            recipe = resolve(each, origin.network, origin.name)
            key = stage_hash(recipe, self._found(locate(recipe, each, None)), key)
            before = tuple(requests[: index + 1])
            bits = Bits(recipe.bits.w, recipe.bits.a)
            title = f"{origin.title}-{recipe.method.name}-{bits}"
            chains.append(Chain(key, start.chain.start, before, title, recipe.train.iters))
        fields = {
            **self.references[start.reference].fields,
            "method": recipe.method.name,
            "recipe": cell.recipe,
            "bits": str(bits),
            "placement": recipe.sites.placement,
            "variant": cell.variant,
            "iters": recipe.train.iters,
            "seed": recipe.recipe.seed,
        }
        name = _cell_name(cell, fields)
        return PlannedCell(name, fields, origin.network, tuple(chains), start.reference)

    def _request(self, cell: Cell, origin: Origin) -> QuantizeRequest:
        """Request for the quantization of a cell."""
        name = cell.recipe or default_recipe(cell.method, origin.network)
        written = load_recipe(name, (), QuantizeRecipe)
        iters = cell.iters
        if iters is None and build_method(written.method).trains:
            iters = self.study.budget.iters
        bits = cell.bits
        return QuantizeRequest(
            recipe=name,
            method=cell.method,
            scale=cell.scale,
            w=None if bits is None else bits.w,
            a=None if bits is None else bits.a,
            placement=cell.placement,
            iters=iters,
            report=False,
            overrides=self.study.changes(cell, written.method.name),
            **self._common,
        )

    def _stage(self, request: QuantizeRequest) -> QuantizeRequest:
        """Give a stage the steps of the budget, in place of those in proportion to its cell."""
        iters = self.study.budget.stage_iters
        if iters is None:
            return request
        kept = (
            change
            for change in parse_changes(request.overrides)
            if change.key != "train.iters" and not change.key.startswith("schedule.")
        )
        return replace(request, overrides=tuple(kept), iters=iters)

    def _start(self, cell: Cell) -> _Start:
        """Find the full-precision model of a cell, once for all that start from it."""
        recipe = cell.recipe if cell.model is None and cell.network is None else None
        key = (cell.model, cell.network, cell.scale, recipe)
        if key not in self._starts:
            self._starts[key] = self._found_start(cell)
        return self._starts[key]

    def _found_start(self, cell: Cell) -> _Start:
        wanted, scale = cell.network, cell.scale or 4
        if cell.model is None and wanted is None and cell.recipe is not None:
            wanted = load_recipe(cell.recipe, (), QuantizeRecipe).network.name
        model: Any = cell.model
        if model is None and self.study.pretrain is None and has_embedded_model(scale):
            model = full_precision_model(scale)
        if model is not None:
            source = identify(model, cell.scale)
            network, header = load(source)
            if cell.model is not None or wanted in (None, header.network["name"]):
                title, content = name_of(source, header), content_hash(network)
                quantized = header.quantization is not None
                origin = Origin(header.network, str(source.path), title, quantized, source.path)
                path = source.path.resolve()
                return self._made_start(origin, Chain(content, path, (), title, 0), content)
        return self._pretrained(wanted or "edsr", scale)

    def _pretrained(self, network: str, scale: int) -> _Start:
        section = self.study.pretrain
        name = (section and section.recipe) or builtin_recipe("pretrain", network)
        changes: tuple[Change, ...] = ()
        if section is not None:
            changes = tuple(fragment_changes(section.set_, "pretrain.set"))
            if section.iters is not None:
                published = load_recipe(name, (), PretrainRecipe).train.iters
                changes += shortened(name, PretrainRecipe, section.iters / published)
        request = PretrainRequest(
            network=network, recipe=name, scale=scale, overrides=changes, **self._common
        )
        job = pretrain.plan(request)
        config = job.recipe.network.model_dump()
        content = stage_hash(job.recipe, self._found(job.recipe), None)
        chain = Chain(content, request, (), job.name, job.recipe.train.iters)
        return self._made_start(Origin(config, job.name, job.name, False, job), chain, content)

    def _made_start(self, origin: Origin, chain: Chain, content: str) -> _Start:
        """Note the start model as a cell of its own, which others are compared with."""
        fields = {
            **dict.fromkeys(AXES),
            "model": origin.title,
            "network": origin.network["name"],
            "scale": origin.network["scale"],
        }
        name = _file_name(origin.title)
        cell = PlannedCell(name, fields, origin.network, (chain,), name)
        known = self.references.setdefault(name, cell)
        if known.chains[-1].key != chain.key:
            raise UsageError(f"two different models are called {origin.title}")
        return _Start(origin, chain, content, name)

    def _found(self, recipe: TrainingRecipe) -> Photographs:
        """Find the photographs of a recipe, once for all recipes that name the same ones."""
        key = f"{recipe.data.model_dump_json()} {recipe.network.scale}"
        if key not in self._photographs:
            self._photographs[key] = photographs_of(recipe, self.options.data_root)
        return self._photographs[key]


def _cell_name(cell: Cell, fields: Mapping[str, Any]) -> str:
    """Name of a cell: its model, method and bits, and what else was stated.

    >>> fields = {"model": "tiny", "method": "pams", "bits": "w4a4", "placement": "full"}
    >>> _cell_name(Cell(seed=3, iters=100), fields)
    'tiny-pams-w4a4-full-i100-s3'
    """
    parts = [fields["model"], fields["method"], fields["bits"]]
    if fields["placement"] == "full":
        parts.append("full")
    parts += [each for each in (cell.variant, cell.recipe and Path(cell.recipe).stem) if each]
    if cell.iters is not None:
        parts.append(f"i{cell.iters}")
    if cell.seed is not None:
        parts.append(f"s{cell.seed}")
    return _file_name("-".join(parts))


def _file_name(text: str) -> str:
    return "".join(each if each.isalnum() or each in "._-" else "_" for each in text)


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, Bits) else value
