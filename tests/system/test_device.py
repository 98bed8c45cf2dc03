"""Memory layout, and reuse of freed memory."""

import subprocess
import sys

import pytest
import torch

from sr_quant_cli.commands.pretrain import pretrain
from sr_quant_cli.system.device import training_layout
from tests.training.runs import request, weights

LAYOUTS = {True: torch.channels_last, False: torch.contiguous_format}


@pytest.mark.parametrize("avx512", LAYOUTS)
def test_layout_follows_the_processor(monkeypatch, avx512):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_f": avx512})
    assert training_layout(torch.device("cpu")) == LAYOUTS[avx512]
    assert training_layout(torch.device("cuda")) == torch.channels_last


@pytest.mark.slow
def test_a_run_goes_on_in_another_layout(photographs, tmp_path, monkeypatch):
    for name, first, second in (("one", True, True), ("two", True, False)):
        for avx512, iters in ((first, 4), (second, 8)):
            monkeypatch.setattr(torch.cpu, "get_capabilities", lambda a=avx512: {"avx512_f": a})
            pretrain(request(photographs, tmp_path / name, f"train.iters={iters}"))
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    for key, value in one.items():
        torch.testing.assert_close(two[key], value, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only glibc is told to")
def test_freed_memory_is_used_again():
    code = """
import resource, torch
from sr_quant_cli.system.device import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

default = faults()
keep_freed_memory()
*_, kept = faults(), faults(), faults()  # it takes a few rounds to settle
print(default, kept)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    default, kept = map(int, done.stdout.split())
    assert kept < default / 5
