"""Every kernel of the library against NumPy in 64 bits, at the extremes of its ranges."""

import ctypes

import numpy as np
import pytest

from sr_quant_cli.errors import UsageError
from sr_quant_cli.kernels import library as kernels
from sr_quant_cli.kernels.packing import pack, padded
from sr_quant_cli.kernels.program import Codes

pytestmark = pytest.mark.skipif(bool(kernels.missing()), reason="the kernels were not built")

PAD = 3


def isas():
    return kernels.available() if not kernels.missing() else ["none"]


def codes(low, high, zero, channels=1):
    return Codes("x", channels, 1, zero, low, high)


def run(packed, picture, border, scale, bias, *, size, **further):
    """Codes ``[h, w, outputs]`` of a convolution of ``[h, w, inputs]`` codes."""
    height, width, inputs = picture.shape
    around = np.full((height + 2 * PAD + 2, width + 2 * PAD + 10, packed.inputs), border, np.uint8)
    around[PAD : PAD + height, PAD : PAD + width, :inputs] = picture
    row, pixel = around.strides[:2]
    out = np.full((height + 1, width + 4, packed.outputs), 77, np.uint8)
    reach = range(-(size // 2), size // 2 + 1)
    offsets = np.array([y * row + x * pixel for y in reach for x in reach], np.intp)
    vectors = [np.full(packed.outputs, value, np.float32) for value in (scale, bias)]
    vectors[0] /= packed.scale
    conv = kernels.Conv(
        packed.tile,
        len(packed.weights),
        packed.inputs,
        packed.outputs,
        pixel,
        offsets.ctypes.data,
        packed.shifts.ctypes.data,
        packed.weights.ctypes.data,
        packed.start.ctypes.data,
    )
    output = kernels.Output(
        scale=vectors[0].ctypes.data,
        bias=vectors[1].ctypes.data,
        low=0,
        high=255,
        codes=out.ctypes.data,
        stride=out.strides[0],
        step=out.strides[1],
    )
    for name, value in further.items():
        setattr(output, name, value.ctypes.data if isinstance(value, np.ndarray) else value)
    scratch = np.empty(kernels.library().srq_scratch(packed.inputs) + 64, np.uint8)
    at = scratch.ctypes.data + -scratch.ctypes.data % 64
    first = around.ctypes.data + PAD * (row + pixel)
    packed.isa.run(ctypes.byref(conv), ctypes.byref(output), first, row, width, 0, height, at)
    assert (out[height:] == 77).all(), "rows behind the picture were written"
    assert (out[:, width:] == 77).all(), "pixels beside the picture were written"
    return out[:height, :width]


def sums_of(packed, picture, zero, size, least, most):
    """Exact sums: each run shows those in a window of 256 values."""
    found = np.full((*picture.shape[:2], packed.outputs), np.iinfo(np.int64).min)
    for first in range(least, most + 1, 254):
        shown = run(packed, picture, zero, 1, 1 - first, size=size).astype(np.int64)
        found = np.where((shown > 0) & (shown < 255), shown + first - 1, found)
    return found


def wanted(picture, weights, zero):
    size = weights.shape[2]
    height, width, _ = picture.shape
    values = np.pad(picture.astype(np.int64) - zero, [(size // 2,) * 2] * 2 + [(0, 0)])
    return sum(
        np.einsum(
            "hwi,oi->hwo", values[y : y + height, x : x + width], weights[:, :, y, x].astype(int)
        )
        for y in range(size)
        for x in range(size)
    )


FORMATS = {
    "8 bits": (0, 255, 128, 127),
    "7-bit weights": (0, 255, 0, 63),
    "29 levels, 6 bits": (0, 63, 17, 14),
    "4 bits, 5 bits": (0, 31, 0, 7),
    "4 bits": (0, 15, 3, 7),
    "5 levels, 3 bits": (0, 7, 3, 2),
    "ternary, 2 bits": (0, 3, 1, 1),
    "narrow range": (192, 255, 200, 14),
    "narrowest range": (248, 255, 250, 2),
}


def tile_of(size, span, largest):
    """Side of the tiles of Winograd's algorithm for codes of a span and weights of a size."""
    if size != 3:
        return 0
    return 3 if span <= 7 and largest <= 2 else 2 if span <= 63 and largest <= 14 else 0


SHAPES = [
    (64, 64, 3, 5, 13),
    (3, 64, 3, 4, 7),
    (64, 48, 5, 3, 6),
    (40, 32, 1, 3, 5),
    (16, 16, 3, 1, 1),
    (96, 112, 3, 2, 3),
]


ALGORITHMS = [(3, 7, 2), (2, 63, 14), (0, 255, 127)]
"""side of the tiles, highest code, largest weight"""


@pytest.mark.parametrize("extreme", [False, True], ids=["random", "extremes"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("isa", isas())
def test_sums_are_exact(isa, name, shape, extreme):
    low, high, zero, largest = FORMATS[name]
    inputs, outputs, size, height, width = shape
    random = np.random.default_rng(5)
    weights = random.integers(-largest, largest + 1, (outputs, inputs, size, size))
    picture = random.integers(low, high + 1, (height, width, inputs))
    if extreme:
        # All products of a sum have one sign, or the opposite one.
        weights = np.where(random.random(outputs)[:, None, None, None] < 0.5, -largest, largest)
        weights = np.broadcast_to(weights, (outputs, inputs, size, size))
        picture = np.where(random.random((height, width, 1)) < 0.5, low, high)
        picture = np.broadcast_to(picture, (height, width, inputs))
    weights, picture = weights.astype(np.int8), picture.astype(np.uint8)
    chosen = kernels.kernels_of(isa)
    packed = pack(weights, codes(low, high, zero), chosen)
    assert packed.tile == tile_of(size, high - low, largest)
    exact = wanted(picture, weights, zero)
    # One output after the other would take long: of each, 8 channels are compared.
    some = random.choice(outputs, min(outputs, 8), replace=False)
    least, most = int(exact[..., some].min()), int(exact[..., some].max())
    if most - least > 40_000:
        # Too many windows: those around the extremes show an overflow.
        for value in (least, most):
            shown = run(packed, picture, zero, 1, 128 - value, size=size)[..., some]
            right = np.clip(exact[..., some] + 128 - value, 0, 255)
            assert np.array_equal(shown, right)
        return
    found = sums_of(packed, picture, zero, size, least, most)
    assert np.array_equal(found[..., some], exact[..., some])


@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize(("tile", "high", "largest"), ALGORITHMS)
def test_what_follows_the_sums(isa, tile, high, largest):
    random = np.random.default_rng(8)
    weights = random.integers(-largest, largest + 1, (32, 16, 3, 3)).astype(np.int8)
    picture = random.integers(0, high + 1, (7, 9, 16)).astype(np.uint8)
    skip = random.integers(0, 256, (7, 9, 32)).astype(np.uint8)
    again = np.zeros((7, 9, 32), np.uint8)
    slope = random.uniform(-0.5, 0.5, 32).astype(np.float32)
    shift = random.uniform(-9, 9, 32).astype(np.float32)
    chosen = kernels.kernels_of(isa)
    packed = pack(weights, codes(0, high, 0), chosen)
    assert packed.tile == tile
    scale = np.float32(100 / np.abs(wanted(picture, weights, 0)).max())
    found = run(
        packed,
        picture,
        0,
        scale,
        3.25,
        size=3,
        slope=slope,
        zero=100.0,
        low=20,
        high=240,
        skip=skip,
        skip_stride=skip.strides[0],
        skip_step=32,
        own=0.75,
        other=0.5,
        constant=-20.0,
        skip_low=5,
        skip_high=250,
        again=again,
        again_stride=again.strides[0],
        again_step=32,
        again_scale=0.25,
        again_bias=shift,
        again_low=2,
        again_high=60,
    )
    v = wanted(picture, weights, 0) * scale + 3.25
    v = np.where(v < 0, v * slope, v) + 100
    first = np.clip(v, 20, 240)
    second = np.clip(0.75 * np.rint(first) + 0.5 * skip - 20, 5, 250)
    # Where a number lies on a tie, the order of the additions decides.
    tie = np.abs(first - np.floor(first) - 0.5) < 1e-3
    assert np.array_equal(found[~tie], np.rint(second)[~tie])
    third = np.clip(0.25 * np.rint(second) + shift, 2, 60)
    tie |= np.abs(third - np.floor(third) - 0.5) < 1e-3
    assert tie.mean() < 0.05
    assert np.array_equal(again[~tie], np.rint(third)[~tie])


def test_winograd_is_refused_where_it_is_not_exact():
    weights = np.full((16, 16, 3, 3), 14, np.int8)
    with pytest.raises(ValueError, match="do not fit 8 bits"):
        pack(weights, codes(0, 64, 0), kernels.all_kernels(), tile=2)
    weights[0, 0] = 15
    assert pack(weights, codes(0, 63, 0), kernels.all_kernels()).tile == 0
    # The range of the codes decides, and the weights that there are, not their bits.
    weights[0, 0] = [[15, 0, 0], [0, 0, 0], [0, 0, 15]]
    assert pack(weights, codes(40, 103, 50), kernels.all_kernels()).tile == 2


def test_channels_are_padded():
    assert [padded(channels) for channels in (3, 16, 17)] == [16, 16, 32]


def test_an_instruction_set_can_be_forced(monkeypatch):
    monkeypatch.setenv(kernels.FORCED, "portable")
    assert {kernel.name for kernel in kernels.kernels()} == {"portable"}
    monkeypatch.setenv(kernels.FORCED, "mmx")
    with pytest.raises(UsageError, match=r"SRQ_ISA=mmx: must be one of .*portable"):
        kernels.kernels()
