"""Pictures of 16 bits at full precision, in all runtimes."""

import numpy as np
import onnx
import pytest
import torch

from sr_quant_cli.data.bicubic import enlarge
from sr_quant_cli.errors import FailedError
from sr_quant_cli.imaging.levels import to_floats, to_levels
from sr_quant_cli.imaging.tiling import Patches
from sr_quant_cli.inference import opening
from sr_quant_cli.inference.bits import BitMeter
from sr_quant_cli.inference.graph_cache import prepare
from sr_quant_cli.inference.opening import open_model
from sr_quant_cli.inference.options import RunOptions
from sr_quant_cli.inference.patchwise import PatchwiseUpscaler
from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.inference.upscaler import BicubicUpscaler, WholeUpscaler
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.loading import load as load_network
from sr_quant_cli.modelfiles.modelfile import save_model
from sr_quant_cli.modelfiles.named import Source
from sr_quant_cli.networks.folding import fold_exactly
from sr_quant_cli.runtimes.base import ModelTraits
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import nearest_onnx, onnx_session, open_path, picture, tiny_edsr
from tests.inference.dynamic import dynamic_edsr
from tests.inference.stubs import Ramp, floats_of, gradient
from tests.lowered import CPU, deployed, network

GRAPHS = ("onnxruntime", "openvino")
NEAREST = ModelTraits("nearest", 2, receptive_radius=0, bytes_per_pixel=100)


def many_levels(sr):
    return min(len(np.unique(sr[:, :, channel])) for channel in range(3)) > 256


def simulated_output(lr):
    """Output of the quantized model with weights as graphs for all processors have them."""
    simulated = network("full w8a8")
    lowered = lower(simulated, reduce_range(freeze(simulated)))
    return floats_of(TorchRuntime(lowered, CPU), lr)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """A float and a quantized model file, and a cache for their graphs."""
    folder = tmp_path_factory.mktemp("deep")
    save_model(folder / "float.safetensors", tiny_edsr(), Card(name="tiny"))
    save_model(folder / "w8a8.safetensors", network("full w8a8"), Card(name="tiny w8a8"))
    return folder


@pytest.fixture
def cached(models, monkeypatch):
    monkeypatch.setenv("SRQ_CACHE", str(models / "cache"))
    return models


@pytest.mark.parametrize("tile", [None, 8])
def test_a_gradient_keeps_its_levels_in_torch(tile):
    lr = gradient(29, 41)
    runtime, traits = TorchRuntime(tiny_edsr(), CPU), traits_of_network(tiny_edsr(), "tiny")
    sr = TiledUpscaler(runtime, traits, tile)(lr)
    wanted = floats_of(runtime, lr).clip(0, 65535)
    assert sr.dtype == np.uint16
    assert np.abs(sr - wanted).max() <= 1
    assert many_levels(sr)


def test_16_bits_are_never_computed_in_bf16():
    lr = gradient(9, 12)
    coarse, fine = (TorchRuntime(tiny_edsr(), CPU, precision) for precision in ("bf16", "fp32"))
    assert np.array_equal(floats_of(coarse, lr), floats_of(fine, lr))


@pytest.mark.slow
@pytest.mark.parametrize("runtime", GRAPHS)
def test_a_float_model_keeps_its_levels_in_every_runtime(cached, runtime):
    lr = gradient(21, 30)
    upscaler = open_path(cached / "float.safetensors", runtime=runtime, threads=1)
    sr = upscaler(lr)
    wanted = floats_of(TorchRuntime(fold_exactly(tiny_edsr()), CPU), lr).clip(0, 65535)
    assert (sr.dtype, upscaler.ran_by) == (np.uint16, runtime)
    assert np.abs(sr - wanted).max() <= 1
    assert many_levels(sr)
    assert upscaler(picture(9, 12)).dtype == np.uint8


@pytest.mark.slow
@pytest.mark.parametrize("runtime", GRAPHS)
def test_a_quantized_model_gives_its_own_float_output(cached, runtime, capsys):
    lr = gradient(21, 30)
    sr = open_path(cached / "w8a8.safetensors", runtime=runtime, threads=1)(lr)
    # Integer kernels multiply by rounded steps, so some codes are the ones beside.
    difference = np.abs(sr - simulated_output(lr).clip(0, 65535))
    assert difference.max() < 257
    assert difference.mean() < 64
    assert many_levels(sr)
    told = capsys.readouterr().err
    assert "tiny w8a8 quantizes its input to 8 bits" in told


@pytest.mark.slow
def test_the_graph_of_a_quantized_model_computes_its_float_output(cached):
    lr = gradient(21, 30)
    graph = prepare(Source(cached / "w8a8.safetensors", "model"), io="unrounded").graph
    x = to_floats(lr).transpose(2, 0, 1)[None]
    (output,) = onnx_session(graph, as_written=True).run(None, {"lr": x})
    made = output[0].transpose(1, 2, 0) * 65535.0
    assert np.abs(made - simulated_output(lr)).max() < 0.1


@pytest.mark.slow
def test_the_graph_of_16_bits_is_another_one_and_kept(cached):
    upscaler = open_path(cached / "float.safetensors", runtime="onnxruntime", threads=1)
    assert upscaler.deep() is upscaler.deep() is not upscaler
    assert upscaler.runtime.path != upscaler.deep().runtime.path
    assert upscaler.deep().runtime.precision == "fp32"


def test_the_default_model_hands_16_bits_to_the_one_in_full_precision(models, monkeypatch, capsys):
    monkeypatch.setattr(opening, "full_precision_model", lambda _: models / "float.safetensors")
    source = Source(models / "w8a8.safetensors", "embedded", 2, default=True)
    upscaler = open_model(source, RunOptions(threads=1))
    lr = gradient(12, 17)
    wanted = floats_of(TorchRuntime(fold_exactly(tiny_edsr()), CPU), lr).clip(0, 65535)
    assert np.abs(upscaler(lr) - wanted).max() <= 1
    assert np.abs(upscaler(lr) - wanted).max() <= 1
    said = "16 bits: tiny, the model in full precision, enlarges them\n"
    assert capsys.readouterr().err.count(said) == 1
    plain = TorchRuntime(network("full w8a8"), CPU)
    assert np.array_equal(upscaler(picture(9, 9)), plain(picture(9, 9)))


def test_for_16_bits_the_default_model_is_not_opened(models, monkeypatch):
    monkeypatch.setattr(opening, "full_precision_model", lambda _: models / "float.safetensors")
    loaded = []

    def load(source, depth):
        loaded.append(source.path.name)
        return load_network(source, depth)

    monkeypatch.setattr("sr_quant_cli.modelfiles.loading.load", load)
    source = Source(models / "w8a8.safetensors", "embedded", 2, default=True)
    assert many_levels(open_model(source, RunOptions(threads=1), bits=16)(gradient(21, 30)))
    assert loaded == ["float.safetensors"]


@pytest.mark.parametrize("runtime", GRAPHS)
def test_a_foreign_graph_of_floats_keeps_its_levels(tmp_path, runtime):
    lr = gradient(9, 12)
    sr = open_path(nearest_onnx(tmp_path / "n.onnx"), runtime=runtime, threads=1)(lr)
    assert np.array_equal(sr, lr.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize("runtime", GRAPHS)
def test_a_graph_of_pixels_has_8_bits_and_says_so_once(tmp_path, runtime, capsys):
    made = deployed("float", "uint8")
    onnx.save(made.model, tmp_path / "p.onnx")
    upscaler = open_path(tmp_path / "p.onnx", runtime=runtime, threads=1)
    lr = picture(9, 12)
    for _ in range(2):
        sr = upscaler(lr.astype(np.uint16) * 257)
        assert np.array_equal(sr, upscaler(lr).astype(np.uint16) * 257)
    told = "p.onnx takes and gives 8 bits: the result of 16 bits has only 8\n"
    assert capsys.readouterr().err == told


def test_a_float_output_of_8_bits_is_found_out(capsys):
    class Rounded(Ramp):
        def floats(self, lr):
            return np.rint(super().floats(lr) * 255) / np.float32(255)

    upscaler = TiledUpscaler(Rounded(), NEAREST)
    for _ in range(2):
        upscaler(gradient(5, 6))
    told = "nearest rounds its output to 8 bits: the result of 16 bits has only 8\n"
    assert capsys.readouterr().err == told


def test_16_bits_run_in_the_precise_runtime_only():
    class Coarse(Ramp):
        def floats(self, lr):
            raise AssertionError

    opened = []

    def precise():
        opened.append(Ramp())
        return opened[-1]

    upscaler = WholeUpscaler(Coarse(), "n", precise)
    lr = gradient(5, 6)
    assert np.array_equal(upscaler(picture(5, 6)), Ramp()(picture(5, 6)))
    assert opened == []
    for _ in range(2):
        assert np.array_equal(upscaler(lr), lr.repeat(2, 0).repeat(2, 1))
    assert len(opened) == 1


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_bicubic_keeps_levels(scale):
    lr = picture(9, 12)
    sr = BicubicUpscaler(scale)(lr.astype(np.uint16) * 257)
    assert sr.dtype == np.uint16
    assert np.abs(sr / 257 - enlarge(lr, scale)).max() <= 1.02
    assert many_levels(BicubicUpscaler(scale)(gradient(29, 41)))


def test_patches_of_16_bits_keep_their_levels():
    lr = gradient(26, 31)
    for made in (tiny_edsr(), dynamic_edsr()):
        runtime = TorchRuntime(made, CPU)
        traits = traits_of_network(made, "net")
        sr = PatchwiseUpscaler(runtime, traits, BitMeter(made), Patches(12, 10))(lr)
        alone = floats_of(runtime, lr[:12, :12])[:22, :22].clip(0, 65535)
        assert np.abs(sr[:22, :22] - alone).max() <= 1


def test_levels_are_rounded_half_to_even_and_clipped():
    floats = np.float32([-1, 0.5 / 255, 1.5 / 255, 1, 2])
    assert to_levels(floats, np.uint8).tolist() == [0, 0, 2, 255, 255]
    every = np.arange(65536, dtype=np.uint16)
    assert np.array_equal(to_levels(to_floats(every), np.uint16), every)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_an_output_of_16_bits_that_is_not_finite_is_no_picture(value):
    made = tiny_edsr()
    with torch.no_grad():
        next(made.parameters()).flatten()[0] = value
    upscaler = TiledUpscaler(TorchRuntime(made, CPU), traits_of_network(made, "tiny"))
    with pytest.raises(FailedError, match="the network's output is not a number, or infinite"):
        upscaler(gradient(5, 6))
