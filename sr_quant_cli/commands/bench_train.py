"""``srq bench train``: training steps, timed in turns."""

import os
from collections.abc import Callable, Generator, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sr_quant_cli.commands.calibrate import calibrate, calibration_batches
from sr_quant_cli.commands.pretrain import resolve
from sr_quant_cli.commands.quantize_recipe import default_recipe
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore, pack_pairs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.networks import build
from sr_quant_cli.networks.base import Network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.recipe.load import Change, load_recipe, options_as_changes, parse_changes
from sr_quant_cli.recipe.schema import (
    MOST_STEPS,
    LossSection,
    OptimSection,
    PretrainRecipe,
    QuantizeRecipe,
    TrainingRecipe,
)
from sr_quant_cli.scales import check_scale
from sr_quant_cli.system.choices import Precision, PrecisionChoice
from sr_quant_cli.system.device import (
    keep_freed_memory,
    pick_device,
    pick_precision,
    set_threads,
    training_layout,
)
from sr_quant_cli.system.processes import world
from sr_quant_cli.system.timing import (
    WARM_UP,
    Row,
    Variant,
    compare,
    machine,
    time_in_turns,
    typical_ratio,
)
from sr_quant_cli.training.batches import Batch, Batches, BatchSource
from sr_quant_cli.training.loop import Step, Trainer
from sr_quant_cli.training.objective import Objective, PixelLoss, StudentLoss, needs_teacher
from sr_quant_cli.training.run import photographs_of

LOADER_TARGET = 5.0
"""Largest share of a training step, in percent, that its data may cost."""

QUANTIZED_TARGET = 2.0
"""Largest time of a fake-quantized step, relative to a full-precision one."""

_NO_FOLDER = Path(os.devnull)


MakeObjective = Callable[[Network, Any], Objective]
"""Makes an objective from a fresh network and a recipe of its kind."""


@dataclass(frozen=True, kw_only=True)
class BenchTrainRequest:
    """Options of ``srq bench train``; None keeps the value of the recipe.

    Parameters
    ----------
    recipe
        Name or file of the recipe; None: the one of the method, else of pretraining.
    method
        Method whose fake-quantized steps are timed; None: steps of pretraining.
    patch
        Side of an LR patch.
    steps
        Timed steps of each variant.
    """

    network: str
    recipe: str | None = None
    method: str | None = None
    w: int | str | None = None
    a: int | str | None = None
    placement: str | None = None
    scale: int = 4
    batch: int | None = None
    patch: int | None = None
    precision: PrecisionChoice | None = None
    steps: int = 10
    data: str = "sample"
    overrides: tuple[str, ...] = ()
    device: str = "auto"
    threads: int | None = None
    data_root: Path | None = None


@dataclass(frozen=True)
class TrainTimings:
    """Times of the training steps of all variants; the first one is the reference.

    Attributes
    ----------
    recipe
        The recipe whose steps were timed.
    data, photographs
        Name of the training set, and its number of photographs.
    loader_percent
        Percent by which a step on photographs takes longer than one on random tensors.
    quantized_ratio
        Time of a fake-quantized step relative to a full-precision one; None: nothing is quantized.
    machine
        Properties of the machine that times depend on.
    """

    rows: tuple[Row, ...]
    recipe: PretrainRecipe | QuantizeRecipe
    data: str
    photographs: int
    machine: dict[str, Any]
    loader_percent: float | None = None
    quantized_ratio: float | None = None

    @property
    def patch(self) -> int:
        """Side of an LR patch."""
        return self.recipe.data.patch_hr // self.recipe.network.scale

    def to_json(self) -> dict[str, Any]:
        """Report: ``rows``, ``loader_percent`` or ``quantized_ratio``, ``work``, ``machine``."""
        recipe, quantization = self.recipe, {}
        findings = {
            "loader_percent": self.loader_percent,
            "quantized_ratio": self.quantized_ratio,
        }
        if isinstance(recipe, QuantizeRecipe):
            quantization = {"method": recipe.method.model_dump(), **recipe.bits.model_dump()}
        return {
            "rows": [asdict(row) for row in self.rows],
            **{name: value for name, value in findings.items() if value is not None},
            "work": {
                **quantization,
                "network": recipe.network.model_dump(),
                "batch": recipe.train.batch,
                "patch": self.patch,
                "data": self.data,
                "photographs": self.photographs,
            },
            "machine": self.machine,
        }


def bench_train(request: BenchTrainRequest) -> TrainTimings:
    """Time steps of srq's training loop beside those of a plain one, data loading included.

    With a method, fake-quantized steps are timed beside full-precision ones. Nothing is written but
    decoded photographs in the cache.

    Raises
    ------
    UsageError
        Unknown network, method, recipe key, data set or device; or several processes.
    """
    if world().size > 1:
        raise UsageError("srq bench train times one process; start it without torchrun")
    recipe = _resolve(request)
    device = pick_device(request.device)
    set_threads(request.threads)
    keep_freed_memory()
    precision = pick_precision(recipe.train.precision, device)
    photographs = photographs_of(recipe, request.data_root)
    store = pack_pairs(photographs.train, recipe.network.scale)
    quantized = isinstance(recipe, QuantizeRecipe)
    if isinstance(recipe, QuantizeRecipe):
        variants = quantized_variants(recipe, store, device, precision)
    else:
        variants = training_variants(recipe, store, device, precision)
    rows = compare(time_in_turns(variants, request.steps, device))
    return TrainTimings(
        tuple(rows),
        recipe,
        photographs.name,
        len(store),
        machine(device),
        loader_percent=None if quantized else _percent_more(rows[-2], rows[-1]),
        quantized_ratio=typical_ratio(rows[1].times, rows[0].times) if quantized else None,
    )


def _percent_more(row: Row, other: Row) -> float:
    return 100 * (typical_ratio(row.times, other.times) - 1)


def training_variants(
    recipe: PretrainRecipe, store: PairStore, device: torch.device, precision: Precision
) -> list[Variant]:
    """Variants of training: plain, srq in each precision, and the last one on random tensors."""
    ours = partial(_srq_steps, recipe, PixelLoss, store, device)
    precisions: list[Precision] = ["fp32"] if precision == "fp32" else ["fp32", precision]
    return [
        Variant("plain", partial(_plain_steps, recipe, store, device)),
        *(Variant(f"srq {p}", partial(ours, p)) for p in precisions),
        Variant("random tensors", partial(ours, precision, batches=RandomBatch(recipe, device))),
    ]


def quantized_variants(
    recipe: QuantizeRecipe, store: PairStore, device: torch.device, precision: Precision
) -> list[Variant]:
    """Variants in full precision, fake-quantized, and with a teacher if the recipe has one.

    All start from fresh weights. The method runs through its phases as in a training of that many
    steps.
    """

    def student(network: Network, recipe: QuantizeRecipe) -> Objective:
        made = calibrate(network, recipe, calibration_batches(store, recipe))
        teacher = made.teacher.place(device) if needs_teacher(recipe.loss) else None
        return StudentLoss(made.student, recipe, build_method(recipe.method), teacher)

    label = f"{recipe.method.name} {Bits(recipe.bits.w, recipe.bits.a)}"
    alone = recipe.model_copy(update={"loss": LossSection()})
    full = alone.model_copy(update={"optim": OptimSection()})
    tasks: list[tuple[str, QuantizeRecipe, MakeObjective]] = [
        ("full precision", full, PixelLoss),
        (label, alone, student),
    ]
    if needs_teacher(recipe.loss):
        tasks.append((f"{label}, teacher", recipe, student))
    return [
        Variant(name, partial(_srq_steps, what, make, store, device, precision))
        for name, what, make in tasks
    ]


class RandomBatch:
    """Source of batches: the same random tensors in every step."""

    def __init__(self, recipe: TrainingRecipe, device: torch.device) -> None:
        def random(side: int) -> Tensor:
            batch = torch.rand(recipe.train.batch, 3, side, side, device=device)
            return batch.contiguous(memory_format=training_layout(device))

        hr = recipe.data.patch_hr
        self._batch = random(hr // recipe.network.scale), random(hr)

    def of(self, steps: range) -> Iterator[Batch]:
        """Give the batch, once for every step."""
        for _ in steps:
            yield self._batch


def _resolve(request: BenchTrainRequest) -> PretrainRecipe | QuantizeRecipe:
    changes = options_as_changes(
        {
            "data.train": ("data", request.data),
            "train.batch": ("batch", request.batch),
            "train.precision": ("precision", request.precision),
        }
    )
    if request.patch is not None:
        side = request.patch * request.scale
        changes.append(Change.of("data.patch_hr", side, "patch", request.patch))
    quantized = options_as_changes(
        {
            "bits.w": ("w", request.w),
            "bits.a": ("a", request.a),
            "sites.placement": ("placement", request.placement),
        }
    )
    steps = WARM_UP + request.steps
    last = Change.of("train.iters", steps, "steps", request.steps)
    if request.method is None:
        for change in quantized:
            raise UsageError(f"{change.given}: needs `method`")
        name = request.recipe or f"pretrain-{request.network}"
        changes = [*changes, *parse_changes(request.overrides), replace(last, value=MOST_STEPS)]
        return resolve(request.network, name, request.scale, changes)
    check_scale(request.scale)
    name = request.recipe or default_recipe(request.method, {"name": request.network})
    scaled = Change.of("network.scale", request.scale, "scale")
    changes = [*changes, scaled, *quantized, *parse_changes(request.overrides), last]
    recipe = load_recipe(name, changes, QuantizeRecipe)
    if (recipe.network.name, recipe.method.name) != (request.network, request.method):
        raise UsageError(
            f"recipe {name} is for {recipe.method.name} on {recipe.network.name}, not for "
            f"{request.method} on {request.network}"
        )
    return recipe


def _plain_steps(
    recipe: PretrainRecipe, store: PairStore, device: torch.device
) -> Generator[None, None, None]:
    """Train as the papers' code does: NCHW, float32, Adam of torch, L1 loss, and no more."""
    network = build(recipe.network).to(device).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=recipe.optim.lr)
    sampler = PatchSampler(
        store,
        seed=recipe.recipe.seed,
        batch=recipe.train.batch,
        patch_hr=recipe.data.patch_hr,
        augment=recipe.data.augment,
        degradations=recipe.degradations,
    )
    batches = Batches(sampler, torch.device("cpu"), torch.contiguous_format)
    for lr, hr in batches.of(range(recipe.train.iters)):
        optimizer.zero_grad()
        F.l1_loss(network(lr.to(device)), hr.to(device)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        yield


def _srq_steps(
    recipe: TrainingRecipe,
    make: MakeObjective,
    store: PairStore,
    device: torch.device,
    precision: Precision,
    batches: BatchSource | None = None,
) -> Generator[Step, None, None]:
    """Train as srq's commands do; ``batches`` replaces those of the photographs."""
    objective = make(build(recipe.network), recipe)
    # Nothing is validated or saved, so no validation pictures and no folder are needed.
    trainer = Trainer(recipe, objective, store, store, _NO_FOLDER, device, precision)
    if batches is not None:
        trainer.batches = batches
    yield from trainer.steps()
