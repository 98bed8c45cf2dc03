"""The training loop."""

import json
import math
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from sr_quant_cli import __version__
from sr_quant_cli.data.sampler import PatchSampler
from sr_quant_cli.data.store import PairStore
from sr_quant_cli.engine.checkpoint import Checkpoints
from sr_quant_cli.engine.device import Precision, autocast
from sr_quant_cli.engine.interrupt import DeferredInterrupts
from sr_quant_cli.engine.schedule import learning_rate
from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.convert import to_pixels, to_tensor
from sr_quant_cli.metrics import get_protocol, score
from sr_quant_cli.networks.base import Network
from sr_quant_cli.recipe.schema import EmaSection, PretrainRecipe

VALIDATION_PROTOCOL = "matlab"


@dataclass(frozen=True)
class Outcome:
    """How a call of ``Trainer.run`` ended."""

    step: int
    seconds: float
    validation_psnr: float | None
    complete: bool


class Trainer:
    """Trains a network by a recipe; all that a resumed run needs is in its checkpoints.

    Parameters
    ----------
    network
        Starts from these weights, unless the run folder holds a checkpoint to resume.
    run_dir
        Folder for checkpoints and ``log.jsonl``.
    """

    def __init__(
        self,
        network: Network,
        recipe: PretrainRecipe,
        train: PairStore,
        validation: PairStore,
        run_dir: Path,
        device: torch.device,
        precision: Precision,
    ) -> None:
        self.recipe = recipe
        self.device = device
        self.precision = precision
        self.network = network.place(device)
        self.average = _averaged(self.network, recipe.ema)
        self.optimizer = torch.optim.Adam(
            self.network.parameters(),
            lr=recipe.optim.lr,
            betas=(recipe.optim.betas[0], recipe.optim.betas[1]),
            eps=recipe.optim.eps,
        )
        self.sampler = PatchSampler(
            train,
            seed=recipe.recipe.seed,
            batch=recipe.train.batch,
            patch_hr=recipe.data.patch_hr,
            augment=recipe.data.augment,
        )
        self.validation = validation
        self.checkpoints = Checkpoints(run_dir)
        self._log_path = run_dir / "log.jsonl"
        self.step = 0
        self.seconds = 0.0
        self.psnr: float | None = None
        self.best: float | None = None

    @property
    def trained(self) -> Network:
        """The weights that are validated and kept: the average where there is one."""
        return self.network if self.average is None else cast("Network", self.average.module)

    def state(self) -> dict[str, Any]:
        """Everything a resumed run needs."""
        return {
            "version": __version__,
            "recipe": self.recipe.model_dump(by_alias=True),
            "step": self.step,
            "seconds": self.seconds,
            "psnr": self.psnr,
            "best": self.best,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from what ``state`` returned."""
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
        self.psnr, self.best = state["psnr"], state["best"]

    def run(self, max_seconds: float | None = None) -> Outcome:
        """Train to the recipe's last step, or until ``max_seconds`` have passed.

        The state is saved at the end; an interrupt waits for the end of a step and is saved, too.

        Raises
        ------
        FailedError
            The loss is no longer finite.
        """
        train = self.recipe.train
        begun = time.monotonic() - self.seconds
        deadline = None if max_seconds is None else time.monotonic() + max_seconds
        losses: list[Tensor] = []
        with self._progress() as bar, DeferredInterrupts() as interrupts:
            for lr, hr in self._batches():
                losses.append(self._train_step(lr, hr))
                self.step += 1
                self.seconds = time.monotonic() - begun
                last = self.step == train.iters
                if self.step % train.log_every == 0 or last:
                    self._log_losses(losses, bar)
                    losses.clear()
                if self.step % self.recipe.validation.every == 0 or last:
                    self._validate(bar)
                if self.step % train.checkpoint_every == 0:
                    self.checkpoints.save(self.state())
                bar.update()
                if interrupts.received or (deadline and time.monotonic() > deadline):
                    break
            self.checkpoints.save(self.state())
        if interrupts.received:
            print(f"saved at step {self.step}; run the same command again to continue")
            interrupts.resume()
        return Outcome(self.step, self.seconds, self.best, self.step == train.iters)

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Tensors of the steps to come, the next one prepared while this one is used."""
        steps = range(self.step, self.recipe.train.iters)
        with ThreadPoolExecutor(1) as loader:
            coming = loader.submit(self.sampler.batch, self.step)
            for step in steps:
                lr, hr = coming.result()
                if step + 1 < steps.stop:
                    coming = loader.submit(self.sampler.batch, step + 1)
                yield to_tensor(lr, self.device), to_tensor(hr, self.device)

    def _train_step(self, lr: Tensor, hr: Tensor) -> Tensor:
        recipe = self.recipe
        rate = learning_rate(recipe.schedule, recipe.optim.lr, self.step, recipe.train.iters)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.network.train()
        with autocast(self.precision, self.device):
            sr = self.network(lr)
        pixel_loss = F.l1_loss if recipe.train.loss == "l1" else F.mse_loss
        loss = pixel_loss(sr.float() * 255, hr * 255)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if recipe.train.grad_clip:
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe.train.grad_clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return loss.detach()

    def _log_losses(self, losses: list[Tensor], bar: "tqdm[Any]") -> None:
        loss = torch.stack(losses).mean().item()
        if not math.isfinite(loss):
            raise FailedError(
                f"the loss is {loss} by step {self.step}; start again in another run folder with a "
                "lower optim.lr or with train.grad_clip"
            )
        rate = self.optimizer.param_groups[0]["lr"]
        self._log(loss=round(loss, 5), lr=rate)
        shown = {"loss": f"{loss:.3f}", "lr": f"{rate:.1e}"}
        if self.psnr is not None:
            shown["PSNR"] = f"{self.psnr:.2f}"
        bar.set_postfix(shown)
        if bar.disable:
            left = self.seconds / self.step * (self.recipe.train.iters - self.step)
            values = "  ".join(f"{key} {value}" for key, value in shown.items())
            print(
                f"step {self.step}/{self.recipe.train.iters}  {values}  {left / 60:.0f} min left",
                flush=True,
            )

    def _validate(self, bar: "tqdm[Any]") -> None:
        self.psnr = validation_psnr(
            self.trained, self.validation, self.recipe.validation.crop_hr, self.device
        )
        self._log(validation_psnr=round(self.psnr, 4))
        if self.best is None or self.psnr > self.best:
            self.best = self.psnr
            self.checkpoints.save_best(self.state())
        bar.set_postfix({"PSNR": f"{self.psnr:.2f}"})

    def _log(self, **values: float) -> None:
        line = {"step": self.step, "seconds": round(self.seconds, 1), **values}
        with self._log_path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _progress(self) -> "tqdm[Any]":
        bar: tqdm[Any] = tqdm(
            total=self.recipe.train.iters,
            initial=self.step,
            desc=f"{self.recipe.network.name} x{self.recipe.network.scale}",
            unit="step",
            disable=None,
        )
        return bar


def validation_psnr(
    network: Network, pairs: PairStore, crop_hr: int, device: torch.device
) -> float:
    """Mean luma PSNR in dB (MATLAB protocol) over central crops, in float32.

    Parameters
    ----------
    crop_hr
        Side of the crop in HR pixels; 0: the whole picture.
    """
    network.eval()
    protocol = get_protocol(VALIDATION_PROTOCOL)
    total = 0.0
    for index in range(len(pairs)):
        lr, hr = pairs.pair(index)
        size = crop_hr // pairs.scale
        top, left = (max(n - size, 0) // 2 if size else 0 for n in lr.shape[:2])
        bottom, right = ((n + size if size else None) for n in (top, left))
        lr = lr[top:bottom, left:right]
        s = pairs.scale
        hr = hr[top * s :, left * s :][: lr.shape[0] * s, : lr.shape[1] * s]
        with torch.inference_mode():
            sr = network(to_tensor(lr[None], device))
        total += score(to_pixels(sr[0]), hr, s, protocol).psnr
    return total / len(pairs)


def _averaged(network: Network, ema: EmaSection) -> AveragedModel | None:
    if ema.decay == 0:
        return None

    def average(old: Tensor, new: Tensor, count: Tensor | int) -> Tensor:
        # A constant decay would hold on to the random start for thousands of steps.
        decay = min(ema.decay, (1 + int(count)) / (10 + int(count)))
        return torch.lerp(old, new, 1 - decay)

    return AveragedModel(network, avg_fn=average)
