"""Real processes that are interrupted or killed while they enlarge pictures."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from sr_quant_cli.commands.batch import BatchOptions, run_jobs
from sr_quant_cli.commands.jobs import Naming, plan_jobs
from sr_quant_cli.commands.scaled_models import ScaledModels
from sr_quant_cli.imaging.io import decodes, write_rgb
from sr_quant_cli.inference.upscaler import BicubicUpscaler

CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A x4 graph, a large picture, and a folder of eight smaller ones; their noise compresses
    slowly."""
    folder = tmp_path_factory.mktemp("interrupts")
    graph = helper.make_graph(
        [helper.make_node("Resize", ["x", "", "s"], ["y"], mode="nearest")],
        "nearest",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * 4)],
        [helper.make_tensor("s", TensorProto.FLOAT, [4], [1, 1, 4, 4])],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=9), folder / "n.onnx")
    random = np.random.default_rng(0)
    write_rgb(folder / "large.png", random.integers(0, 256, (450, 600, 3), dtype=np.uint8))
    for index in range(8):
        pixels = random.integers(0, 256, (300, 400, 3), dtype=np.uint8)
        write_rgb(folder / f"many/p{index}.png", pixels)
    return folder


class Upscale:
    """``srq upscale`` at work; its outputs go to a folder of their own."""

    def __init__(self, place, source, out):
        self.out = out
        out.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sr_quant_cli", "upscale", str(place / source)),
                *("--model", str(place / "n.onnx"), "-o", str(out), "--overwrite"),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def wait_for(self, pattern):
        """Wait until a file of that name is in the output folder."""
        while self._process.poll() is None and not any(self.out.glob(pattern)):
            time.sleep(0.002)
        assert self._process.poll() is None, self._process.communicate()

    def send(self, number):
        self._process.send_signal(number)

    def end(self):
        """Exit code, stdout, stderr."""
        out, err = self._process.communicate(timeout=120)
        return self._process.returncode, out, err

    def files(self):
        return sorted(path.name for path in self.out.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.15])
def test_an_interrupt_is_never_lost_in_a_folder(place, tmp_path, number, delay):
    """Interrupts come at different moments: while a picture is read, enlarged or encoded."""
    upscale = Upscale(place, "many", tmp_path / "out")
    upscale.wait_for("p0_x4.png")
    time.sleep(delay)
    upscale.send(number)
    code, out, err = upscale.end()
    made = upscale.files()
    assert 1 <= len(made) < 8
    line = f"{len(made)} of 8 pictures done; --skip-existing goes on with the rest\n"
    assert (code, err) == (CODES[number], line)
    assert [f"/{name} " in out for name in made] == [True] * len(made)
    assert all(decodes(upscale.out / name) for name in made)


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupt_ends_an_encoder_at_work(place, tmp_path, number, times):
    upscale = Upscale(place, "large.png", tmp_path / "out")
    upscale.wait_for(".srq-tmp-*/large_x4.png")
    for _ in range(times):
        upscale.send(number)
        time.sleep(0.01)
    code, out, err = upscale.end()
    # A later one may come when Python is ending: in a destructor, or after its handlers are gone.
    assert (code, err.strip()) == (CODES[number], "") or (
        times > 1 and code in (CODES[number], -number)
    )
    assert out == ""
    assert upscale.files() == []


@pytest.mark.slow
def test_a_killed_process_leaves_nothing_that_the_next_one_keeps(place, tmp_path):
    upscale = Upscale(place, "large.png", tmp_path / "out")
    upscale.wait_for(".srq-tmp-*/large_x4.png")
    upscale.send(signal.SIGKILL)
    assert upscale.end()[0] == -signal.SIGKILL
    (left,) = upscale.files()
    assert left.startswith(".srq-tmp-")
    (tmp_path / "out/.my.part-of-thesis.raw").write_text("mine")
    again = Upscale(place, "many/p0.png", tmp_path / "out")
    assert again.end()[0] == 0
    assert again.files() == [".my.part-of-thesis.raw", "p0_x4.png"]


def test_pictures_are_enlarged_in_other_threads_too(place, tmp_path):
    """Python installs no signal handlers outside the main thread."""
    jobs = plan_jobs([str(place / "many/p0.png")], Naming("_x2"), tmp_path).jobs
    models = ScaledModels(BicubicUpscaler(2))
    with ThreadPoolExecutor() as pool:
        (done,) = pool.submit(run_jobs, models, jobs, BatchOptions()).result()
    assert done.status == "done"


def test_a_patient_wait_notes_signals_and_acts_when_it_is_asked():
    """In a process of its own: in that of the tests, native libraries may disturb signals."""
    code = """
import signal
from sr_quant_cli.system.interrupt import DeferredInterrupts

with DeferredInterrupts(patient=True) as interrupts:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.raise_signal(number)
        assert interrupts.received == number
    try:
        interrupts.resume()
    except KeyboardInterrupt:
        print("interrupted")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("interrupted\n", 0), done.stderr
