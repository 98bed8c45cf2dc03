"""Calibration as a plain function: no run folder, no options, no data set."""

import pytest
import torch

from sr_quant_cli.commands import calibrate as steps
from sr_quant_cli.commands.calibrate import (
    calibrate,
    calibration_batches,
    flat_patches,
    prepare,
)
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.data.photographs import find_photographs
from sr_quant_cli.data.store import pack_pairs
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.modelfile import load_model
from sr_quant_cli.quant.max_scale import MaxScale
from sr_quant_cli.recipe.load import load_recipe
from sr_quant_cli.recipe.schema import QuantizeRecipe
from tests.commands.test_quantize import PREPARED, request
from tests.helpers import tiny_edsr
from tests.training.runs import equal


def recipe(name, *changes):
    shape = ("network.scale=2", "network.n_blocks=2", "network.n_feats=8")
    return load_recipe(name, [*shape, *changes], QuantizeRecipe)


def lr_batches():
    return [torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(1))]


def full_state(run):
    network, _ = load_model(run / "trainable.safetensors")
    return network.state_dict()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "changes", "overrides"),
    [
        ("minmax-edsr", {}, ()),
        ("2dquant-edsr", {"method": "2dquant", "iters": 0}, PREPARED),
        ("deploy-edsr", {"method": None, "recipe": "deploy-edsr"}, ()),
    ],
)
def test_the_command_calibrates_by_the_function(
    tiny_model, photographs, tmp_path, name, changes, overrides
):
    quantize(request(tiny_model, photographs, tmp_path / "run", *overrides, **changes))
    used = load_recipe(str(tmp_path / "run/recipe.toml"), (), QuantizeRecipe)
    store = pack_pairs(find_photographs(str(photographs), 2).train, 2)
    network, _ = load_model(tiny_model)
    made = calibrate(network, used, calibration_batches(store, used))
    assert equal(made.student.state_dict(), full_state(tmp_path / "run"))


@pytest.mark.slow
def test_the_network_that_is_given_stays_as_it_is():
    network = tiny_edsr()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    made = calibrate(network, recipe("2dquant-edsr", *PREPARED), lr_batches())
    assert network.quantization is None
    assert equal(network.state_dict(), before)
    # The teacher is equalized and mixed, and gives the pictures of the network.
    lr = lr_batches()[0]
    assert not equal(made.teacher.state_dict(), before)
    with torch.no_grad():
        assert torch.allclose(made.teacher(lr), network(lr), atol=1e-4)


@pytest.mark.slow
def test_prepared_networks_take_the_state_of_calibrated_ones():
    wanted = recipe("2dquant-edsr", *PREPARED)
    made = calibrate(tiny_edsr(), wanted, lr_batches())
    bare = prepare(tiny_edsr(), wanted, lr_batches())
    assert equal(bare.teacher.state_dict(), made.teacher.state_dict())
    bare.student.load_state_dict(made.student.state_dict())
    lr = lr_batches()[0]
    with torch.no_grad():
        assert torch.equal(bare.student.eval()(lr), made.student.eval()(lr))


def test_flat_pictures_that_the_network_does_not_reproduce_are_left_out():
    photographs = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    class Greenless(torch.nn.Module):
        """Gives white for green, and is off by less than the limit elsewhere."""

        def forward(self, x):
            green = (x == torch.tensor([0.0, 1.0, 0.0]).view(3, 1, 1)).flatten(1).all(1)
            return torch.where(green.view(-1, 1, 1, 1), 1.0, x + 0.09)

    colours = flat_patches(6)
    network = Greenless().train()
    (kept,) = steps._reproduced(network, [torch.cat([photographs, colours])])
    assert torch.equal(kept, torch.cat([photographs, colours[:2], colours[3:]]))
    assert colours[2, :, 0, 0].tolist() == [0, 1, 0]
    assert network.training


def test_ranges_of_the_method_before_are_inherited():
    before = calibrate(tiny_edsr(), recipe("pams-edsr", "bits.w=8", "bits.a=8"), lr_batches())
    alphas = {
        path: quantizer.alpha.data.mul_(1.5).item()
        for path, quantizer in before.student.named_modules()
        if isinstance(quantizer, MaxScale)
    }
    student = calibrate(before.student, recipe("cadyq-edsr"), lr_batches()).student
    assert student.quantization.method.name == "cadyq"
    inherited = {
        path: set(quantizer.alpha.tolist())
        for path, quantizer in student.named_modules()
        if isinstance(quantizer, MaxScale) and quantizer.alpha.ndim
    }
    assert inherited
    assert all(bounds == {alphas[path]} for path, bounds in inherited.items())


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        ("minmax-edsr", "minmax-edsr", "quantized already, by minmax; start from a full-precisi"),
        ("minmax-edsr", "cadyq-edsr", "by minmax; start from a model quantized by pams"),
    ],
)
def test_a_network_of_another_method_is_refused(first, second, message):
    start = calibrate(tiny_edsr(), recipe(first), lr_batches()).student
    with pytest.raises(UsageError, match=message):
        calibrate(start, recipe(second), lr_batches())


def test_a_step_that_is_not_possible_is_named():
    with pytest.raises(UsageError, match=r"^calibration\.compensate: .* without: `overrides` cal"):
        calibrate(tiny_edsr(), recipe("pams-edsr", "calibration.compensate=true"), lr_batches())
