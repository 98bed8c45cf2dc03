"""Trackers of training runs: TensorBoard, Weights & Biases, MLflow.

Each gets the values of the log as they are written. A run that goes on continues the run of its
tracker, whose identity is kept in the run folder.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import uuid4

from sr_quant_cli.errors import FailedError, UsageError, first_line
from sr_quant_cli.recipe.load import flat
from sr_quant_cli.system.choices import TrackerName

PROJECT = "srq"
"""Project of Weights & Biases, and experiment of MLflow, unless their variables name another."""


class Tracker(Protocol):
    """Receiver of the values of one run."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the values of one step."""

    def close(self) -> None:
        """Finish: everything is written, or sent."""


def open_trackers(
    names: Sequence[TrackerName], folder: Path, after: int, recipe: Mapping[str, Any]
) -> list[Tracker]:
    """Open trackers of a run.

    Parameters
    ----------
    folder
        Run folder; its name is the name of the run.
    after
        Step from which the run continues.
    recipe
        Resolved recipe, stored as the run's configuration.

    Raises
    ------
    UsageError
        The package of a tracker is not installed.
    FailedError
        A tracker cannot be reached.
    """
    opened: list[Tracker] = []
    for name in dict.fromkeys(names):
        try:
            opened.append(_OPEN[name](folder, after, recipe))
        except ImportError as error:
            raise UsageError(
                f"`trackers` {name} needs a package: pip install 'sr-quant-cli[{name}]'"
            ) from error
        except Exception as error:  # the packages' exceptions share no base class
            raise FailedError(f"{name} cannot begin: {first_line(error)}") from error
    return opened


class _TensorBoard:
    """Event files below ``tensorboard/`` in the run folder."""

    def __init__(self, folder: Path, after: int, _recipe: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Events behind the step are those of a part of the run that is trained again.
        self._writer: Any = SummaryWriter(os.fspath(folder / "tensorboard"), purge_step=after + 1)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _WandB:
    """Weights & Biases, set up by its own variables: ``WANDB_PROJECT``, ``WANDB_MODE``, ..."""

    def __init__(self, folder: Path, _after: int, recipe: Mapping[str, Any]) -> None:
        import wandb

        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=folder,
            name=folder.resolve().name,
            id=_identity(folder / "wandb-run", lambda: uuid4().hex[:12]),
            resume="allow",
            config=dict(recipe),
        )
        # Its own step only grows, but a run may go on from an earlier checkpoint.
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def close(self) -> None:
        self._run.finish()


class _MLflow:
    """MLflow, set up by ``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME``."""

    def __init__(self, folder: Path, _after: int, recipe: Mapping[str, Any]) -> None:
        from mlflow.tracking import MlflowClient

        self._client = MlflowClient()

        def begin() -> str:
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
            known = self._client.get_experiment_by_name(name)
            experiment = known.experiment_id if known else self._client.create_experiment(name)
            run = self._client.create_run(experiment, run_name=folder.resolve().name)
            for key, value in flat(recipe).items():
                self._client.log_param(run.info.run_id, key, value)
            return str(run.info.run_id)

        self._run = _identity(folder / "mlflow-run", begin)
        self._client.set_terminated(self._run, "RUNNING")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._client.log_metric(self._run, name, value, step=step)

    def close(self) -> None:
        self._client.set_terminated(self._run)


_OPEN: Mapping[str, Any] = {"tensorboard": _TensorBoard, "wandb": _WandB, "mlflow": _MLflow}


def _identity(path: Path, make: Any) -> str:
    """Read the identity of a run, or make and keep one."""
    if path.is_file():
        return path.read_text(encoding="utf-8").strip()
    identity = str(make())
    path.write_text(identity, encoding="utf-8")
    return identity
