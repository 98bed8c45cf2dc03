"""Groups of parameters whose learning rate is 0 in a step."""

from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.training.checkpoint import Checkpoints
from tests.commands.test_quantize import request


def test_a_group_at_rest_leaves_the_optimizer_alone(tiny_model, photographs, tmp_path):
    # Three turns of 2, 2 and 1 steps: Adam has counted for each group the steps of its own.
    changes = ("method.turn=2", "train.iters=5")
    quantize(request(tiny_model, photographs, tmp_path / "run", *changes, method="adabm"))
    state = Checkpoints(tmp_path / "run").newest()["optimizer"]
    counted = {
        tuple(int(state["state"][index]["step"]) for index in group["params"])
        for group in state["param_groups"]
    }
    assert all(len(set(steps)) == 1 for steps in counted)
    assert sorted(steps[0] for steps in counted) == [1, 2, 2]
