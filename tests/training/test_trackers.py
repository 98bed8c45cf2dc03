"""Weights & Biases and MLflow, offline: the real packages, where they are installed."""

from pathlib import Path

import pytest

from sr_quant_cli.errors import FailedError
from sr_quant_cli.training.trackers import open_trackers

RECIPE = {"recipe": {"name": "r", "seed": 3}, "train": {"iters": 10}}


@pytest.fixture
def mlflow(monkeypatch, tmp_path):
    """MLflow with a store in a folder."""
    package = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    package.set_tracking_uri((tmp_path / "store").as_uri())
    return package.tracking.MlflowClient()


def test_mlflow_gets_the_log_and_a_run_goes_on(mlflow, tmp_path):
    folder = tmp_path / "my-run"
    folder.mkdir()
    (tracker,) = open_trackers(["mlflow"], folder, 0, RECIPE)
    tracker.log(1, {"loss": 4.0, "lr": 1e-4})
    tracker.log(2, {"loss": 3.0})
    tracker.close()
    (again,) = open_trackers(["mlflow", "mlflow"], folder, 2, RECIPE)
    again.log(3, {"loss": 2.0})
    again.close()
    experiment = mlflow.get_experiment_by_name("srq")
    (run,) = mlflow.search_runs([experiment.experiment_id])
    assert run.info.run_name == "my-run"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"recipe.name": "r", "recipe.seed": "3", "train.iters": "10"}
    history = mlflow.get_metric_history(run.info.run_id, "loss")
    assert [(point.step, point.value) for point in history] == [(1, 4.0), (2, 3.0), (3, 2.0)]


def test_a_tracker_that_cannot_be_reached_is_one_line(mlflow, tmp_path, monkeypatch):
    (tmp_path / "my-run").mkdir()
    (tmp_path / "my-run" / "mlflow-run").write_text("no such run")
    with pytest.raises(FailedError, match="mlflow cannot begin: ") as caught:
        open_trackers(["mlflow"], tmp_path / "my-run", 0, RECIPE)
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_wandb_gets_the_log_and_a_run_goes_on(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    folder = tmp_path / "my-run"
    folder.mkdir()
    found = []
    for step in (1, 2):
        (tracker,) = open_trackers(["wandb"], folder, step - 1, RECIPE)
        tracker.log(step, {"loss": 5.0 - step})
        found.append((tracker._run.id, tracker._run.project, tracker._run.name))
        assert tracker._run.summary["loss"] == 5.0 - step
        tracker.close()
    assert found[0] == found[1]
    assert found[0][1:] == ("srq", "my-run")
    assert (folder / "wandb-run").read_text() == found[0][0]
    assert len(list(Path(folder / "wandb").glob("offline-run-*"))) == 2
