"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from sr_quant_cli import __version__
from sr_quant_cli.data.benchmark import central_crop
from sr_quant_cli.data.degrade import CLEAN, Degradations
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.convert import to_pixels, to_tensor
from sr_quant_cli.metrics import get_protocol, score
from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.schema import TrainingRecipe
from sr_quant_cli.system.choices import Precision, TrackerName
from sr_quant_cli.system.device import autocast, training_layout
from sr_quant_cli.system.interrupt import DeferredInterrupts
from sr_quant_cli.system.processes import average_processes, collect, share, world
from sr_quant_cli.system.reporting import Progress, progress, result
from sr_quant_cli.training.batches import Batches, BatchSource
from sr_quant_cli.training.checkpoint import Checkpoints
from sr_quant_cli.training.convolution import fast_convolutions
from sr_quant_cli.training.divergence import LossWatch, first_bad_layer, most_grown_layer
from sr_quant_cli.training.objective import Objective
from sr_quant_cli.training.run_folder import VALIDATION_PROTOCOL, RunLog
from sr_quant_cli.training.schedule import rate_factor
from sr_quant_cli.training.trackers import open_trackers

CHECKPOINT_FORMAT = 2
"""Raised whenever ``Trainer.state`` changes."""


@dataclass(frozen=True)
class Step:
    """A training step: its losses, averaged over all ranks, and True if a rank asked to stop."""

    losses: dict[str, float]
    stop: bool


class Trainer:
    """Training loop of a recipe, with everything that a resumed run needs in its checkpoints.

    Under ``torchrun`` every rank takes its share of each batch and of the validation pictures, and
    rank 0 writes.

    Parameters
    ----------
    recipe
        Optimizer, schedule, batches and intervals.
    objective
        Network and losses; training starts from the network's weights unless ``restore`` is called.
    run_dir
        Folder for checkpoints and ``log.jsonl``.
    trackers
        Names of trackers that get the values of the log.
    """

    def __init__(
        self,
        recipe: TrainingRecipe,
        objective: Objective,
        train: PairStore,
        validation: PairStore,
        run_dir: Path,
        device: torch.device,
        precision: Precision,
        *,
        trackers: Sequence[TrackerName] = (),
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.precision = precision
        layout = training_layout(device)
        self.network = objective.network.place(device, layout)
        self.average = _averaged(self.network, recipe.ema.decay)
        self._groups = objective.parameter_groups()
        self.optimizer = torch.optim.Adam(
            [{"params": group.parameters, "lr": group.lr} for group in self._groups],
            betas=(recipe.optim.betas[0], recipe.optim.betas[1]),
            eps=recipe.optim.eps,
        )
        here = world()
        sampler = PatchSampler(
            train,
            seed=recipe.recipe.seed,
            batch=recipe.train.batch,
            patch_hr=recipe.data.patch_hr,
            augment=recipe.data.augment,
            degradations=recipe.degradations,
            part=(here.rank, here.size),
        )
        self.batches: BatchSource = Batches(sampler, device, layout)
        self.validation = validation
        self.checkpoints = Checkpoints(run_dir)
        self._run_dir = run_dir
        self._trackers = trackers
        self._is_first = here.rank == 0
        self._log: RunLog | None = None
        self._objective = objective.to(device)
        self._compute: nn.Module = (
            DistributedDataParallel(objective, find_unused_parameters=objective.may_skip_gradients)
            if here.size > 1
            else objective
        )
        self._watch = LossWatch()
        self._sums: dict[str, float] = {}
        self._summed = 0
        self.step = 0
        self.seconds = 0.0
        self.psnr: float | None = None
        self.best: float | None = None

    @property
    def trained(self) -> Network:
        """The network that is validated and saved: the average of the weights if there is one."""
        return self.network if self.average is None else cast("Network", self.average.module)

    def state(self) -> dict[str, Any]:
        """Collect everything that a resumed run needs, as plain values and tensors."""
        return {
            "format": CHECKPOINT_FORMAT,
            "version": __version__,
            "recipe": self.recipe.model_dump(by_alias=True),
            "step": self.step,
            "seconds": self.seconds,
            "psnr": self.psnr,
            "best": self.best,
            "sums": self._sums,
            "summed": self._summed,
            "watch": self._watch.state(),
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "random_cuda": torch.cuda.get_rng_state_all(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from the result of ``state``."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.psnr, self.best = state["psnr"], state["best"]
        self._sums, self._summed = state["sums"], state["summed"]
        self._watch.restore(state["watch"])
        torch.set_rng_state(state["random"])
        if len(state["random_cuda"]) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(state["random_cuda"])

    def run(self, max_seconds: float | None = None) -> None:
        """Train to the last step of the recipe, or until ``max_seconds`` have passed.

        The state is saved at the end. An interrupt takes effect at the end of a step, and the state
        is saved then, too.

        Raises
        ------
        FailedError
            A loss or gradient is not finite, the loss explodes, or a file cannot be written.
        """
        train = self.recipe.train
        begun = time.monotonic() - self.seconds
        deadline = math.inf if max_seconds is None else time.monotonic() + max_seconds
        with (
            DeferredInterrupts() as interrupts,
            progress(self.recipe.train.iters, "step", done=self.step) as bar,
            ExitStack() as cleanup,
        ):
            if self._is_first:
                self._log = self._open_log(cleanup)
            for step in self.steps(
                lambda: interrupts.received is not None or time.monotonic() > deadline
            ):
                bar.update()
                self.seconds = time.monotonic() - begun
                last = self.step == train.iters
                if self.step % train.log_every == 0 or last:
                    self._log_losses(bar)
                if self.step % self.recipe.validation.every == 0 or last:
                    self._validate()
                if self.step % train.checkpoint_every == 0 and not (last or step.stop):
                    self._save()
                if step.stop:
                    break
            if train.iters == 0:
                self._validate()
            self._save()
        if interrupts.received:
            result(f"saved at step {self.step}")
            interrupts.resume()

    def steps(self, wants_stop: Callable[[], bool] = lambda: False) -> Iterator[Step]:
        """Train from the current step to the last step of the recipe, one step at a time.

        Parameters
        ----------
        wants_stop
            Called in every step; if it is True on one rank, all ranks stop.
        """
        for lr, hr in self.batches.of(range(self.step, self.recipe.train.iters)):
            yield self._train_step(lr, hr, wants_stop)

    def _train_step(self, lr: Tensor, hr: Tensor, wants_stop: Callable[[], bool]) -> Step:
        recipe = self.recipe
        factor = rate_factor(recipe.schedule, self.step, recipe.train.iters)
        rates = [group.lr * factor * group.factor(self.step) for group in self._groups]
        for rate, settings in zip(rates, self.optimizer.param_groups, strict=True):
            settings["lr"] = rate
        self.network.train()
        self._objective.set_phase(self.network, self.step)
        fast = fast_convolutions(self.precision, self.device)
        with autocast(self.precision, self.device), fast:
            losses: dict[str, Tensor] = self._compute(lr, hr)
        norm = torch.zeros((), device=self.device)
        if any(rates):
            self.optimizer.zero_grad(set_to_none=True)
            self._backward(losses)
            for group, rate in zip(self._groups, rates, strict=True):
                if not rate:
                    # It takes no part in the step: the optimizer's averages of it must not move.
                    for parameter in group.parameters:
                        parameter.grad = None
            gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
        *values, length = torch.stack([*losses.values(), norm]).tolist()
        step = _agreed(dict(zip(losses, values, strict=True)), wants_stop())
        self._check(step.losses, length, lr)
        if any(rates):
            if recipe.train.grad_clip:
                torch.nn.utils.clip_grads_with_norm_(
                    self.network.parameters(), recipe.train.grad_clip, norm
                )
            self.optimizer.step()
            self._objective.after_step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        for name, value in step.losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._summed += 1
        self.step += 1
        return step

    def _backward(self, losses: dict[str, Tensor]) -> None:
        """Compute the gradients of all losses; the objective combines those of side losses."""
        side = [value for name, value in losses.items() if self._objective.is_side_loss(name)]
        main = [value for name, value in losses.items() if not self._objective.is_side_loss(name)]
        trained: list[nn.Parameter] = []
        gradients: tuple[Tensor | None, ...] = ()
        if side:
            trained = [p for p in self.network.parameters() if p.requires_grad]
            # By a call that leaves out the hooks of DistributedDataParallel: they take one pass.
            gradients = torch.autograd.grad(
                torch.stack(side).sum(), trained, retain_graph=True, allow_unused=True
            )
        torch.stack(main).sum().backward()  # type: ignore[no-untyped-call]
        for parameter, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                average_processes(gradient)
                own = torch.zeros_like(gradient) if parameter.grad is None else parameter.grad
                parameter.grad = self._objective.combine(own, gradient)

    def _check(self, losses: dict[str, float], gradient_norm: float, lr: Tensor) -> None:
        """Refuse a step that would ruin the weights.

        Raises
        ------
        FailedError
            A loss or the gradient is not finite, or the loss explodes.
        """
        loss = sum(losses.values())
        finite = math.isfinite(loss) and math.isfinite(gradient_norm)
        # Regularizers may set in late, such as one on bit widths: they are no sign of divergence.
        watched = losses["pixel"] + losses.get("feature", 0.0)
        if finite and not self._watch.exploded(watched):
            return
        with autocast(self.precision, self.device):
            if finite:
                what = f"the loss has exploded to {loss:.4g}"
                good = None
                with suppress(FailedError):
                    good = self.checkpoints.newest()
                where = most_grown_layer(self.network, lr, good and good["network"])
            else:
                what = (
                    f"the gradient is {gradient_norm}"
                    if math.isfinite(loss)
                    else f"the loss is {loss}"
                )
                where = first_bad_layer(self.network, lr)
        saved = self.checkpoints.files()
        raise FailedError(
            f"{what} at step {self.step + 1}, beginning in {where}; "
            f"last good checkpoint: {saved[0] if saved else 'none yet'}; start again in another "
            "run folder with a lower optim.lr or with train.grad_clip"
        )

    def _save(self) -> None:
        if self._is_first:
            self.checkpoints.save(self.state())

    def _log_losses(self, bar: Progress) -> None:
        means = {name: round(value / self._summed, 5) for name, value in self._sums.items()}
        loss = sum(self._sums.values()) / self._summed
        self._sums, self._summed = {}, 0
        rate = self.optimizer.param_groups[0]["lr"]
        parts = means if len(means) > 1 else {}
        self._write_log(loss=round(loss, 5), lr=rate, **parts)
        shown = {"loss": f"{loss:.3f}"}
        if self.psnr is not None:
            shown["PSNR"] = f"{self.psnr:.2f}"
        bar.show(**shown)

    def _validate(self) -> None:
        self._objective.set_phase(self.trained, self.step)
        self.psnr = validation_psnr(
            self.trained,
            self.validation,
            self.recipe.validation.crop_hr,
            self.device,
            self.recipe.degradations,
        )
        self._write_log(validation_psnr=round(self.psnr, 4))
        if self.best is None or self.psnr > self.best:
            self.best = self.psnr
            if self._is_first:
                self.checkpoints.save_best(self.state())

    def _open_log(self, cleanup: ExitStack) -> RunLog:
        trackers = open_trackers(
            self._trackers, self._run_dir, self.step, self.recipe.model_dump(by_alias=True)
        )
        log = RunLog(self._run_dir, after=self.step, trackers=trackers)
        cleanup.callback(log.close)
        return log

    def _write_log(self, **values: float) -> None:
        if self._log is not None:
            self._log.write(self.step, self.seconds, **values)


def validation_psnr(
    network: Network,
    pairs: PairStore,
    crop_hr: int,
    device: torch.device,
    degradations: Degradations = CLEAN,
) -> float:
    """Measure the mean luma PSNR in dB (MATLAB protocol) over central crops, in float32.

    Parameters
    ----------
    crop_hr
        Side of the crop in HR pixels; 0: the whole picture.
    degradations
        Degradations of LR. They are the same for a picture in every call.
    """
    network.eval()
    protocol = get_protocol(VALIDATION_PROTOCOL)

    def psnr(index: int) -> float:
        s = pairs.scale
        lr, hr = central_crop(*pairs.pair(index), s, crop_hr // s)
        if degradations.active:
            lr = degradations.degrade(lr, hr, np.random.Generator(np.random.Philox(key=index)))
        with torch.inference_mode():
            sr = network(to_tensor(lr[None], device))
        return score(to_pixels(sr[0]), hr, s, protocol).psnr

    values = collect([psnr(index) for index in share(range(len(pairs)))])
    return sum(values) / len(values)


def _agreed(losses: dict[str, float], stop: bool) -> Step:
    """Average the losses over all ranks; stop if one of them stops."""
    size = world().size
    if size == 1:
        return Step(losses, stop)
    from torch import distributed

    values = torch.tensor([float(stop), *losses.values()], dtype=torch.float64)
    if distributed.get_backend() == "nccl":
        values = values.cuda()
    distributed.all_reduce(values)
    stops, *sums = values.tolist()
    means = {name: value / size for name, value in zip(losses, sums, strict=True)}
    return Step(means, stops > 0)


def _averaged(network: Network, highest_decay: float) -> AveragedModel | None:
    if highest_decay == 0:
        return None

    def average(old: Any, new: Any, count: Tensor | int) -> None:
        # With a constant decay the random start would dominate for thousands of steps.
        decay = min(highest_decay, (1 + int(count)) / (10 + int(count)))
        torch._foreach_lerp_(old, new, 1 - decay)

    return AveragedModel(network, multi_avg_fn=average)
