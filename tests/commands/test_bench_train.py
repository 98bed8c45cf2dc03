"""Timing of training steps: what is compared, not how fast it is."""

import json
from dataclasses import replace

import pytest
import torch

from sr_quant_cli.commands.bench_train import (
    WARM_UP,
    BenchTrainRequest,
    RandomBatch,
    Variant,
    bench_train,
    compare,
    time_in_turns,
    typical_ratio,
)
from sr_quant_cli.commands.pretrain import resolve
from sr_quant_cli.errors import UsageError
from sr_quant_cli.report.bench import print_training_times

CPU = torch.device("cpu")


@pytest.fixture
def tiny(photographs):
    return BenchTrainRequest(
        network="edsr",
        recipe="pretrain-edsr",
        scale=2,
        batch=2,
        patch=12,
        steps=3,
        data=str(photographs),
        overrides=("network.n_blocks=1", "network.n_feats=4"),
        precision="fp32",
        device="cpu",
    )


def test_every_loop_is_timed_and_nothing_but_the_cache_is_written(tiny, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    before = sorted(tmp_path.rglob("*"))
    timings = bench_train(tiny)
    report = timings.to_json()
    assert sorted(tmp_path.rglob("*")) == before
    rows = report["rows"]
    assert [row["variant"] for row in rows] == ["plain", "srq fp32", "random tensors"]
    assert all(len(row["times"]) == 3 and min(row["times"]) > 0 for row in rows)
    loaded, unloaded = rows[1]["times"], rows[2]["times"]
    assert report["loader_percent"] == 100 * (typical_ratio(loaded, unloaded) - 1)
    work = report["work"]
    assert (work["batch"], work["patch"], work["photographs"]) == (2, 12, 6 - 1)
    assert work["network"]["n_feats"] == 4
    assert report["machine"]["threads"] == torch.get_num_threads()
    assert json.loads(json.dumps(report)) == report


def test_bf16_has_a_row_where_it_is_asked_for(tiny):
    report = bench_train(replace(tiny, precision="bf16", steps=1)).to_json()
    labels = [row["variant"] for row in report["rows"]]
    assert labels == ["plain", "srq fp32", "srq bf16", "random tensors"]
    (loaded,), (unloaded,) = (row["times"] for row in report["rows"][-2:])
    assert report["loader_percent"] == 100 * (loaded / unloaded - 1)


def quantized(tiny, method, **changes):
    overrides = (*tiny.overrides, "calibration.images=2", "calibration.patch_lr=8")
    return replace(tiny, recipe=None, method=method, overrides=overrides, **changes)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "variants"),
    [
        ("pams", ["full precision", "pams w4a3", "pams w4a3, teacher"]),
        ("ddtb", ["full precision", "ddtb w4a3", "ddtb w4a3, teacher"]),
        ("daq", ["full precision", "daq w4a3"]),
        ("dbdc_pac", ["full precision", "dbdc_pac w4a3", "dbdc_pac w4a3, teacher"]),
    ],
)
def test_fake_quantized_steps_beside_full_precision(tiny, method, variants, capsys):
    timings = bench_train(quantized(tiny, method, w=4, a=3, placement="full"))
    report = timings.to_json()
    rows = report["rows"]
    assert [row["variant"] for row in rows] == variants
    assert all(len(row["times"]) == 3 for row in rows)
    assert report["quantized_ratio"] == typical_ratio(rows[1]["times"], rows[0]["times"])
    work = report["work"]
    assert (work["method"]["name"], work["w"], work["a"], work["batch"]) == (method, 4, 3, 2)
    assert json.loads(json.dumps(report)) == report
    print_training_times(timings)
    ratio = f"takes {report['quantized_ratio']:.2f} times as long as a full-precision one"
    assert ratio in capsys.readouterr().out


def test_set_comes_after_the_options_and_the_steps_are_as_many_as_asked_for(tiny):
    overrides = (*tiny.overrides, "train.batch=1", "data.patch_hr=16", "train.iters=1")
    report = bench_train(replace(tiny, patch=None, overrides=overrides)).to_json()
    assert (report["work"]["batch"], report["work"]["patch"]) == (1, 8)
    assert len(report["rows"][0]["times"]) == 3


def test_the_first_variant_is_the_reference():
    rows = compare({"plain": [3.0, 1.0, 2.0], "ours": [0.75, 0.5, 0.25], "slow": [6.0, 2.0, 8.0]})
    assert [row.median for row in rows] == [2.0, 0.5, 6.0]
    assert [row.minimum for row in rows] == [1.0, 0.25, 2.0]
    assert [row.steps_per_second for row in rows] == [0.5, 2.0, 1 / 6]
    assert [row.speedup for row in rows] == [1.0, 4.0, 0.5]
    assert rows[0].times == [3.0, 1.0, 2.0]


def test_a_round_that_was_disturbed_does_not_count():
    assert typical_ratio([2.0, 900.0, 4.0], [1.0, 10.0, 2.0]) == 2.0
    with pytest.raises(ValueError, match="shorter"):
        typical_ratio([1.0, 2.0], [1.0])


def test_variants_take_turns_and_are_ended():
    seen = []

    def steps(name):
        try:
            while True:
                seen.append(name)
                yield
        finally:
            seen.append(f"{name} ends")

    variants = [Variant(name, lambda name=name: steps(name)) for name in "ab"]
    times = time_in_turns(variants, 2, CPU)
    assert "".join(seen[:-2]) == "ab" * (2 + WARM_UP)
    assert sorted(seen[-2:]) == ["a ends", "b ends"]
    assert {label: len(t) for label, t in times.items()} == {"a": 2, "b": 2}


def test_the_random_batch_has_the_shape_of_the_loaders_batches():
    recipe = resolve("edsr", "pretrain-edsr", 2, ["train.batch=2", "data.patch_hr=24"])
    first, second = RandomBatch(recipe, CPU).of(range(2))
    assert first is second
    lr, hr = first
    assert (lr.shape, hr.shape) == ((2, 3, 12, 12), (2, 3, 24, 24))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "esdr"}, "did you mean 'edsr'"),
        ({"scale": 7}, "^`scale` 7: must"),
        ({"batch": 0}, "^`batch` 0: must be 1 to 65536$"),
        ({"batch": 10**20}, "^`batch` 100000000000000000000: must be 1 to 65536$"),
        ({"patch": 4}, r"^`patch` 4: data\.patch_hr = 8: must be 16 to 65536$"),
        ({"patch": 10**20}, r"^`patch` 1\d*: data\.patch_hr = 2\d*: must be 16 to 65536$"),
        ({"steps": 10**20, "recipe": None, "method": "pams"}, r"^`steps` 1\d*: train\.iters = "),
        ({"patch": 999}, "smaller than a patch"),
        ({"data": "nowhere"}, "no training pictures"),
        ({"device": "tpu"}, "^`device` tpu: "),
        ({"recipe": "minmax-edsr"}, "srq quantize"),
        ({"w": 4}, "^`w` 4: needs `method`$"),
        ({"recipe": None, "method": "pasm"}, "did you mean 'pams'"),
        ({"recipe": None, "method": "pams", "w": 9}, "^`w` 9: must be 2 to 8 "),
        ({"recipe": "pams-edsr", "method": "daq"}, "is for pams on edsr, not for daq on edsr"),
        ({"recipe": "pretrain-edsr", "method": "daq"}, "is for 'srq pretrain'"),
        ({"overrides": ("train.itres=1",)}, r"did you mean train\.iters\?"),
    ],
)
def test_nonsense_is_refused(tiny, changes, message):
    with pytest.raises(UsageError, match=message) as refused:
        bench_train(replace(tiny, **changes))
    assert "\n" not in str(refused.value)


def test_several_processes_are_refused(tiny, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="without torchrun"):
        bench_train(tiny)
