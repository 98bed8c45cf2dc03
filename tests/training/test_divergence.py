from types import SimpleNamespace

import pytest
import torch

from sr_quant_cli.commands.pretrain import pretrain
from sr_quant_cli.errors import FailedError
from sr_quant_cli.training.divergence import LossWatch, first_bad_layer, most_grown_layer
from sr_quant_cli.training.loop import Trainer
from tests.helpers import tiny_edsr
from tests.training.runs import request


def batch():
    return torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_one_hard_batch_is_no_explosion_and_twenty_are():
    watch = LossWatch()
    quiet = [watch.exploded(2.0 if step != 30 else 500.0) for step in range(100)]
    assert not any(quiet)
    assert [watch.exploded(50.0) for _ in range(20)] == [False] * 19 + [True]


def test_a_watch_goes_on_from_its_state():
    one, two = LossWatch(), LossWatch()
    for _ in range(50):
        one.exploded(1.0)
    two.restore(one.state())
    assert [two.exploded(21.0) for _ in range(30)] == [one.exploded(21.0) for _ in range(30)]


def test_a_regularizer_that_comes_and_goes_is_no_explosion():
    seen = []
    trainer = SimpleNamespace(_watch=SimpleNamespace(exploded=seen.append))
    Trainer._check(trainer, {"pixel": 1.0, "feature": 2.0, "bits": 50.0}, 1.0, batch())
    Trainer._check(trainer, {"pixel": 1.5, "gate": 50.0}, 1.0, batch())
    assert seen == [3.0, 1.5]


def test_weights_that_are_not_finite_are_named():
    network = tiny_edsr()
    with torch.no_grad():
        network.body[1].conv1.bias[2] = torch.inf
    assert first_bad_layer(network, batch()) == "the weights of body.1.conv1.bias"


def test_the_first_output_that_is_not_finite_is_named():
    network = tiny_edsr()
    with torch.no_grad():
        network.body[1].conv2.weight.fill_(1e38)
    assert first_bad_layer(network, batch()) == "the output of body.1.conv2"


def test_the_gradient_nearest_to_the_loss_is_named():
    network = tiny_edsr()
    network(batch()).sum().backward()
    for name in ("head", "body.0.conv1", "body.1.conv2"):
        network.get_submodule(name).weight.grad.fill_(torch.nan)
    assert first_bad_layer(network, batch()) == "the gradient of body.1.conv2.weight"


def test_the_layer_that_grew_is_named_and_the_weights_stay():
    network = tiny_edsr()
    good = {key: value.clone() for key, value in network.state_dict().items()}
    with torch.no_grad():
        network.body[1].conv1.weight.mul_(1000)
    exploded = network.body[1].conv1.weight.clone()
    assert most_grown_layer(network, batch(), good) == "the output of body.1.conv1"
    assert torch.equal(network.body[1].conv1.weight, exploded)


def spoil(monkeypatch, at, change):
    """Change the network at the beginning of a step."""
    original = Trainer._train_step

    def step(self, *args):
        if self.step == at:
            with torch.no_grad():
                change(self.network)
        return original(self, *args)

    monkeypatch.setattr(Trainer, "_train_step", step)


def test_nan_stops_the_run_and_says_all_that_helps(photographs, tmp_path, monkeypatch):
    run = tmp_path / "run"
    spoil(monkeypatch, 6, lambda network: network.body[0].conv2.bias.fill_(torch.nan))
    with pytest.raises(FailedError) as told:
        pretrain(request(photographs, run))
    assert str(told.value) == (
        "the loss is nan at step 7, beginning in the weights of body.0.conv2.bias; last good "
        f"checkpoint: {run / 'step-00000004.ckpt'}; start again in another run folder with a "
        "lower optim.lr or with train.grad_clip"
    )
    saved = torch.load(run / "step-00000004.ckpt", weights_only=True)
    assert all(value.isfinite().all() for value in saved["network"].values())
    assert [path.name for path in sorted(run.glob("step-*"))] == ["step-00000004.ckpt"]


def test_a_gradient_that_is_not_finite_stops_before_the_weights_change(
    photographs, tmp_path, monkeypatch
):
    # The mean squared error of 1e17 is finite in float32, its gradient's norm is not.
    spoil(monkeypatch, 0, lambda network: network.tail.weight.mul_(1e16))
    with pytest.raises(FailedError, match="the gradient is inf at step 1, beginning in"):
        pretrain(request(photographs, tmp_path / "run", "train.loss=l2"))


def test_an_explosion_stops_the_run_and_names_the_layer(photographs, tmp_path, monkeypatch):
    spoil(monkeypatch, 25, lambda network: network.tail.weight.mul_(1e5))
    overrides = ("train.iters=100", "optim.lr=1e-12", "train.checkpoint_every=10")
    with pytest.raises(
        FailedError, match=r"exploded to .* at step 40, beginning in the output of tail"
    ):
        pretrain(request(photographs, tmp_path / "run", *overrides))


def test_a_learning_rate_beyond_reason_ends_with_a_message(photographs, tmp_path):
    with pytest.raises(FailedError, match=r"the loss is \w+ at step 2, beginning in the"):
        pretrain(request(photographs, tmp_path / "run", "optim.lr=1e30"))
