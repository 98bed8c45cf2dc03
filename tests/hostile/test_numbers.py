"""Figures against independent forms: NumPy in float64, scikit-image, torch, ONNX Runtime."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.executor import Executor
from sr_quant_cli.kernels.from_graph import compile_graph
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import freeze
from sr_quant_cli.metrics import psnr, ssim
from sr_quant_cli.networks import build
from sr_quant_cli.networks.edsr import EDSRConfig
from sr_quant_cli.quant import grids
from sr_quant_cli.quant.fake import fake_quantize
from sr_quant_cli.quant.packing import pack, unpack
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import onnx_session, picture
from tests.hostile.processes import sizes
from tests.lowered import quantize

VALUES = st.floats(-50, 50, width=32)
WIDTHS = st.integers(2, 8)


def reference(x, lower, upper, origin, step, first, last):
    """Nearest levels in float64, and how far each value is from a tie."""
    v = (np.clip(x, lower, upper) - origin) / step
    codes = np.clip(np.round(v), first, last)
    return codes * step + origin, np.abs(v - np.floor(v) - 0.5)


def settings_of(kind, a, b, bits):
    """A grid, and its numbers by the formulas of the literature in float64."""
    count = 2**bits
    low, high = min(a, b), max(a, b)
    alpha, step = abs(a), abs(a) / count
    width = (high - low) / (count - 1)
    match kind:
        case "sym_narrow":
            q = count // 2 - 1
            return grids.sym_narrow(torch.tensor(alpha), bits), (-alpha, alpha, 0, alpha / q, -q, q)
        case "sym_full":
            q = count // 2
            numbers = (-q * step, (q - 1) * step, 0, step, -q, q - 1)
            return grids.sym_full(torch.tensor(step), bits), numbers
        case "unsigned":
            numbers = (0, (count - 1) * step, 0, step, 0, count - 1)
            return grids.unsigned(torch.tensor(step), bits), numbers
        case "affine_int":
            origin = width * np.round(low / width)
            made = grids.affine_int(torch.tensor(low), torch.tensor(high), bits)
            return made, (low, high, origin, width, 0, count - 1)
        case "affine_real":
            made = grids.affine_real(torch.tensor(low), torch.tensor(high), bits)
            return made, (low, high, low, width, 0, count - 1)
        case _:
            bound = (count / 2 - 0.5) * step
            numbers = (-bound, bound, step / 2, step, -count // 2, count // 2 - 1)
            return grids.midrise(torch.tensor(step), bits), numbers


KINDS = ("sym_narrow", "sym_full", "unsigned", "affine_int", "affine_real", "midrise")


@sizes(part=60, whole=1000)
def test_levels_are_those_of_float64(size):
    @size.examples
    @given(st.sampled_from(KINDS), VALUES, VALUES, WIDTHS, arrays(np.float32, 20, elements=VALUES))
    def compare(kind, a, b, bits, x):
        assume(abs(a) > 0.01 and abs(a - b) > 0.01)
        # Another zero point would move all levels by a step.
        assume(abs(min(a, b) / (abs(a - b) / (2**bits - 1)) % 1 - 0.5) > 1e-3)
        grid, numbers = settings_of(kind, a, b, bits)
        wanted, from_tie = reference(x.astype(np.float64), *numbers)
        found = grids.quantize(torch.from_numpy(x), grid).numpy()
        clear = from_tie > 1e-3
        np.testing.assert_allclose(found[clear], wanted[clear], rtol=1e-5, atol=2e-5)
        step = float(grid.step)
        assert np.abs(found - wanted).max() <= step * 1.001 + 2e-5
        codes = grids.encode(torch.from_numpy(x), grid)
        assert np.array_equal(grids.decode(codes, grid).numpy(), found)

    compare()


@sizes(part=40, whole=500)
def test_gradients_are_those_of_float64(size):
    """Of the input and of the bounds of a learned range, for the rules with a closed form."""

    @size.examples
    @given(
        st.sampled_from(["ste", "clip", "half", "clamp"]),
        VALUES,
        st.floats(0.5, 40, width=32),
        WIDTHS,
        arrays(np.float32, 20, elements=VALUES),
        arrays(np.float32, 20, elements=VALUES),
    )
    def compare(rule, low, width, bits, x, g):
        high = float(np.float32(low + width))
        lower, upper = (torch.tensor(v, requires_grad=True) for v in (low, high))
        given_x = torch.from_numpy(x.copy()).requires_grad_()
        grid = grids.affine_real(lower, upper, bits)
        y = fake_quantize(given_x, grid, rule)
        y.backward(torch.from_numpy(g))
        x64, g64 = x.astype(np.float64), g.astype(np.float64)
        if rule == "ste":
            np.testing.assert_array_equal(given_x.grad.numpy(), g)
            return
        assume(not np.isin(x64, [low, high]).any())  # ties are tested by hand elsewhere
        inside = (x64 > low) & (x64 < high)
        np.testing.assert_allclose(given_x.grad.numpy(), g64 * inside, rtol=1e-6)
        error = (np.clip(x64, low, high) - y.detach().numpy()) * g64
        spread = error.sum() / (high - low)
        scale = 1 + np.abs(g64).sum()
        for bound, beyond, sign in ((upper, x64 > high, -1), (lower, x64 < low, 1)):
            wanted = (g64 * beyond).sum() + sign * spread
            assert abs(bound.grad.item() - wanted) < 1e-5 * scale

    compare()


@sizes(part=30, whole=300)
def test_packed_codes_come_back(size):
    @size.examples
    @given(WIDTHS, st.integers(0, 300), st.integers(0, 2**32 - 1))
    def compare(bits, count, seed):
        codes = np.random.default_rng(seed).integers(0, 2**bits, count).astype(np.int16)
        packed = pack(torch.from_numpy(codes), 0, bits)
        assert packed.numel() == (count * bits + 7) // 8
        bit_string = np.unpackbits(packed.numpy(), bitorder="little")[: count * bits]
        by_hand = (bit_string.reshape(count, bits) << np.arange(bits)).sum(1)
        np.testing.assert_array_equal(by_hand, codes)
        np.testing.assert_array_equal(unpack(packed, (count,), 0, bits).numpy(), codes)

    compare()


@sizes(part=20, whole=200)
def test_metrics_are_those_of_scikit_image(size):
    @size.examples
    @given(st.integers(11, 40), st.integers(11, 40), st.integers(0, 2**32 - 1), st.integers(1, 90))
    def compare(height, width, seed, amplitude):
        random = np.random.default_rng(seed)
        a = random.uniform(0, 255, (height, width))
        b = np.clip(a + random.uniform(-amplitude, amplitude, a.shape), 0, 255)
        assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-9)
        _, every = structural_similarity(
            *(a, b),
            data_range=255,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
            full=True,
        )
        # Of windows within the picture, as the published implementation in MATLAB has it.
        inner = every[5 : height - 5, 5 : width - 5]
        assert ssim(a, b) == pytest.approx(inner.mean(), abs=1e-9)

    compare()


@sizes(part=1, whole=30)
def test_graphs_and_kernels_compute_what_the_network_does(size):
    """Random networks, bits and sizes: torch on codes, ONNX Runtime, and srq's kernels."""

    @size.examples
    @given(
        st.sampled_from([2, 3, 4]),
        st.integers(1, 2),
        st.sampled_from([4, 8, 12, 20]),
        st.integers(2, 8),
        st.integers(1, 40),
        st.integers(1, 40),
        st.integers(0, 1000),
    )
    def compare(scale, blocks, features, bits, height, width, seed):
        torch.manual_seed(seed)
        config = EDSRConfig(scale=scale, n_blocks=blocks, n_feats=features)
        network = quantize(build(config).eval(), "minmax", "full", bits)
        lr = picture(height, width, seed)
        wanted = TorchRuntime(lower(network, freeze(network)), torch.device("cpu"))(lr).astype(int)
        model = deploy(network, "random", "uint8", full_range=True).model
        # Optimized, it rounds biases to the product of two steps, which is coarse at few bits.
        session = onnx_session(model.SerializeToString(), as_written=True)
        found = {"onnxruntime": session.run(None, {"lr": lr[None]})[0][0]}
        if not kernels.missing():
            found["srq"] = Executor(compile_graph(model), 1)(lr)
        for name, picture_of in found.items():
            off = np.abs(picture_of.astype(int) - wanted)
            # A tie that is rounded the other way changes its surroundings by single levels.
            assert off.max() <= 2, name
            assert off.mean() <= 0.2, name

    compare()


@sizes(part=5, whole=60)
def test_tiles_give_the_whole_picture(size):
    """Float networks in tiles differ by the order of summation alone."""
    torch.manual_seed(0)
    network = build(EDSRConfig(scale=2, n_blocks=1, n_feats=8)).eval()
    runtime, traits = TorchRuntime(network, torch.device("cpu")), traits_of_network(network, "x")

    @size.examples
    @given(st.integers(1, 70), st.integers(1, 70), st.integers(16, 40), st.integers(0, 1000))
    def compare(height, width, tile, seed):
        lr = picture(height, width, seed)
        tiled = TiledUpscaler(runtime, traits, tile)
        off = np.abs(tiled(lr).astype(int) - runtime(lr))
        assert off.max() <= 1
        assert off.mean() < 0.01

    compare()
