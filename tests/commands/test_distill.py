from pathlib import Path

import pytest
import torch

from sr_quant_cli.commands.distill import DistillRequest, distill
from sr_quant_cli.commands.quantize import quantize
from sr_quant_cli.errors import UsageError
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks import build
from tests.commands.test_quantize import SMALL
from tests.commands.test_quantize import request as quantize_request
from tests.helpers import tiny_edsr
from tests.training.runs import entries

TRAIN = (*[s for s in SMALL if not s.startswith("calibration")], "optim.lr=1e-3")


def request(student, teacher, photographs, run, *overrides, **changes):
    return DistillRequest(
        student=student,
        teacher=teacher,
        data=str(photographs),
        run_dir=run,
        overrides=(*TRAIN, *overrides),
        device="cpu",
        threads=1,
        **changes,
    )


def smaller_student():
    torch.manual_seed(5)
    return build(tiny_edsr().config.model_copy(update={"n_blocks": 1}))


def losses(run):
    return [entry for entry in entries(run) if "loss" in entry]


@pytest.mark.slow
@pytest.mark.parametrize("method", ["minmax", "pams"])
def test_a_quantized_student_comes_nearer_to_its_teacher(tiny_model, photographs, tmp_path, method):
    iters = {"minmax": 0, "pams": 2}[method]
    quantize(
        quantize_request(
            tiny_model, photographs, tmp_path / "q", method=method, w=3, a=3, iters=iters
        )
    )
    distill(request(tmp_path / "q", tiny_model, photographs, tmp_path / "d", iters=60))
    log = losses(tmp_path / "d")
    assert {"pixel", "feature"} <= log[0].keys()
    assert log[-1]["loss"] < 0.9 * log[0]["loss"]
    _, header = load_model(tmp_path / "d/model.safetensors")
    assert header.quantization.w == 3
    assert [run.task for run in header.card.training] == ["quantize", "distill"]


def test_a_float_student_learns_from_a_larger_teacher(tiny_model, photographs, tmp_path):
    save_model(tmp_path / "s.safetensors", smaller_student(), Card(name="small"))
    distill(request(tmp_path / "s.safetensors", tiny_model, photographs, tmp_path / "d", iters=60))
    log = losses(tmp_path / "d")
    assert log[-1]["loss"] < 0.5 * log[0]["loss"]
    assert load_model(tmp_path / "d/model.safetensors")[0].config.n_blocks == 1


def test_bounds_alone_can_be_refined(tiny_model, photographs, tmp_path):
    quantize(quantize_request(tiny_model, photographs, tmp_path / "q", w=3, a=3))
    frozen = ("optim.lr=0.0",)
    distill(request(tmp_path / "q", tiny_model, photographs, tmp_path / "d", *frozen, iters=20))
    start, _ = load_model(tiny_model)
    after, _ = load_model(tmp_path / "d/trainable.safetensors")
    before, _ = load_model(tmp_path / "q/trainable.safetensors")
    assert torch.equal(after.body[0].conv1.weight, start.body[0].conv1.weight)
    moved = after.body[0].conv1.input_quantizer.upper - before.body[0].conv1.input_quantizer.upper
    assert moved.abs() > 0


def test_what_cannot_be_distilled_is_refused(tiny_model, photographs, tmp_path):
    quantize(quantize_request(tiny_model, photographs, tmp_path / "q"))
    packed = tmp_path / "q/model.safetensors"
    with pytest.raises(UsageError, match=r"holds packed codes.*trainable\.safetensors"):
        distill(request(packed, tiny_model, photographs, tmp_path / "d"))
    save_model(tmp_path / "x3.safetensors", tiny_edsr(scale=3), Card())
    with pytest.raises(UsageError, match="enlarges by 3, not by 2"):
        distill(request(tiny_model, tmp_path / "x3.safetensors", photographs, tmp_path / "d"))
    with pytest.raises(UsageError, match="no such model file"):
        distill(request(tmp_path / "none", tiny_model, photographs, tmp_path / "d"))
    save_model(tmp_path / "s.safetensors", smaller_student(), Card())
    blocks = 'loss.points="blocks"'
    with pytest.raises(UsageError, match="the student has 1 of them, the teacher 2"):
        distill(
            request(tmp_path / "s.safetensors", tiny_model, photographs, tmp_path / "d", blocks)
        )


@pytest.mark.parametrize("method", ["pams", "adabm"])
def test_patches_have_no_surroundings_for_teachers_either(photographs, tmp_path, method):
    model = tmp_path / "surrounded.safetensors"
    network = tiny_edsr()
    network.set_context(3)
    save_model(model, network, Card(name="surrounded"))
    changes = {"method": method, "w": 8, "a": 8, "iters": 2}
    quantize(quantize_request(model, photographs, tmp_path / "q", **changes))
    distill(request(tmp_path / "q", model, photographs, tmp_path / "d", iters=1))
    assert "feature" in losses(tmp_path / "d")[0]
    assert load_model(tmp_path / "d/model.safetensors")[0].config.context == 3


def test_the_name_of_a_student_leads_out_of_no_folder(
    tiny_model, photographs, tmp_path, monkeypatch
):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    name = "../../../\x1b[31mout"
    save_model(tmp_path / "s.safetensors", smaller_student(), Card(name=name))
    wanted = request(tmp_path / "s.safetensors", tiny_model, photographs, None, iters=1)
    before = sorted(tmp_path.iterdir())
    assert distill(wanted).model == Path("runs/31mout-distilled/model.safetensors")
    assert sorted(tmp_path.iterdir()) == before
