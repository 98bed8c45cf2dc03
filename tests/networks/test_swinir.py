"""SwinIR-light: counts, padding, windows and their shift, receptive radius, tiles."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from sr_quant_cli.inference.tiled import TiledUpscaler
from sr_quant_cli.lowering.deploy import deploy
from sr_quant_cli.lowering.graph import save_graph
from sr_quant_cli.lowering.lower import lower
from sr_quant_cli.lowering.spec import freeze, reduce_range
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods.minmax import MinMaxConfig
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, save_model
from sr_quant_cli.networks import build
from sr_quant_cli.networks.counting import count_macs
from sr_quant_cli.networks.folding import linear_chain
from sr_quant_cli.networks.layers import MatMul
from sr_quant_cli.networks.swinir import (
    MASKED,
    PadToWindows,
    SwinIRConfig,
    WindowAttention,
    join,
    mirrored,
    partition,
    shift_mask,
)
from sr_quant_cli.networks.tracing import output_stage
from sr_quant_cli.passes.apply import count_operations, quantize_network
from sr_quant_cli.quant.layers import QuantMatMul
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import BLOCKS, FULL, Operands
from sr_quant_cli.runtimes.registry import get_runtime
from sr_quant_cli.runtimes.torch import TorchRuntime, traits_of_network
from tests.helpers import picture, tiny_swinir

CPU = torch.device("cpu")


@pytest.mark.parametrize(("scale", "parameters"), [(2, 910_152), (3, 918_267), (4, 929_628)])
def test_parameters_are_those_of_the_published_network(scale, parameters):
    with torch.device("meta"):
        network = build(SwinIRConfig(scale=scale))
    assert network.parameter_count() == parameters
    weights = {
        kind: sum(m.weight.numel() for m in network.modules() if isinstance(m, kind))
        for kind in (nn.Linear, nn.Conv2d)
    }
    assert weights[nn.Linear] == 691_200
    assert scale != 4 or weights[nn.Conv2d] == 189_540
    tables = (p.numel() for name, p in network.named_parameters() if name.endswith(".table"))
    assert sum(tables) == 32_400


@pytest.mark.slow
def test_multiply_accumulates_are_those_of_layers_and_products():
    network = build(SwinIRConfig(scale=4))
    # A pixel is multiplied with all weights, and in each of 24 layers twice with 64 others of 60
    # features; 20 x 12 pixels become 24 x 16.
    by_hand = (691_200 + 189_540 + 24 * 2 * 64 * 60) * 24 * 16
    assert count_macs(network, 20, 12) == by_hand
    assert sum(op.macs for op in count_operations(network, 20, 12)) == by_hand


@pytest.mark.parametrize(
    ("length", "window", "padding", "expected"),
    [
        (8, 4, "reflect", [0, 1, 2, 3, 4, 5, 6, 7]),
        (5, 4, "reflect", [0, 1, 2, 3, 4, 3, 2, 1]),
        (5, 4, "symmetric", [0, 1, 2, 3, 4, 4, 3, 2]),
        (2, 8, "reflect", [0, 1, 0, 1, 0, 1, 0, 1]),
        (2, 8, "symmetric", [0, 1, 1, 0, 0, 1, 1, 0]),
        (1, 4, "reflect", [0, 0, 0, 0]),
        (1, 4, "symmetric", [0, 0, 0, 0]),
    ],
)
def test_pictures_are_padded_by_their_mirror_image(length, window, padding, expected):
    assert mirrored(length, window, padding).tolist() == expected


def test_padding_is_at_the_bottom_and_right():
    x = torch.arange(6.0).view(1, 1, 2, 3)
    padded = PadToWindows(4, "symmetric")(x)
    assert padded[0, 0].tolist() == [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]]
    reflected = nn.functional.pad(torch.rand(1, 3, 9, 14), (0, 2, 0, 7), mode="reflect")
    assert torch.equal(PadToWindows(16, "reflect")(reflected[:, :, :9, :14]), reflected)


def test_windows_are_put_together_again():
    x = torch.arange(2 * 4 * 6 * 1).view(2, 4, 6, 1)
    windows = partition(x, 2)
    assert windows.shape == (2, 6, 4, 1)
    assert windows[0, 1].flatten().tolist() == [2, 3, 8, 9]
    assert torch.equal(join(windows, 2, 4, 6), x)


def neighbours(height, width, window, shift):
    """True where pixels may attend to each other, by their windows: ``[HW, HW]``."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    where = torch.stack([(y + shift) // window, (x + shift) // window], 2).flatten(0, 1)
    return (where[:, None] == where).all(2)


@pytest.mark.parametrize(("height", "width"), [(4, 4), (8, 12)])
@pytest.mark.parametrize("shift", [0, 2])
def test_attention_is_that_between_neighbours_alone(height, width, shift):
    torch.manual_seed(0)
    window, heads = 4, 2
    attention = WindowAttention(6, heads, window).eval()
    nn.init.normal_(attention.position.table)
    x = torch.randn(2, height, width, 6)
    mask = shift_mask(height, width, window, CPU) if shift else None
    rolled = x.roll((-shift, -shift), (1, 2))
    ours = join(attention(partition(rolled, window), mask), window, height, width)
    ours = ours.roll((shift, shift), (1, 2))

    # Every pixel with every other, biases by their offset.
    y, x_ = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = y.flatten(), x_.flatten()
    allowed = neighbours(height, width, window, shift)
    down = (rows[:, None] - rows + window - 1).clamp(0, 2 * window - 2)
    right = (columns[:, None] - columns + window - 1).clamp(0, 2 * window - 2)
    bias = attention.position.table[down * (2 * window - 1) + right].permute(2, 0, 1)
    tokens = x.flatten(1, 2)
    q, k, v = (
        layer(tokens).unflatten(2, (heads, 3)).transpose(1, 2)
        for layer in (attention.q, attention.k, attention.v)
    )
    scores = q @ k.mT / 3**0.5 + bias
    weights = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
    expected = attention.proj((weights @ v).transpose(1, 2).flatten(2)).view_as(x)
    assert torch.allclose(ours, expected, atol=1e-5)


def test_only_the_last_windows_are_masked():
    mask = shift_mask(8, 12, 4, CPU)
    assert mask.shape == (6, 1, 16, 16)
    assert (mask.flatten(1) == MASKED).any(1).tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_kernel_for_attention_gives_what_two_products_give(layout, monkeypatch):
    network = tiny_swinir().place(CPU, layout)
    lr = torch.rand(2, 3, 9, 14).contiguous(memory_format=layout)
    called = []
    hooks = [
        module.register_forward_hook(lambda *_: called.append(1))
        for module in network.modules()
        if isinstance(module, MatMul)
    ]
    with torch.no_grad():
        fused = network(lr)
        assert not called
        monkeypatch.setattr(WindowAttention, "_unseen", lambda *_: False)
        assert torch.allclose(network(lr), fused, atol=1e-5)
    assert len(called) == len(hooks) == 8


def test_gradients_reach_every_parameter():
    network = tiny_swinir().train()
    network(torch.rand(2, 3, 9, 14)).square().sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in network.parameters())


def test_bfloat16_comes_close():
    network = tiny_swinir().place(CPU)
    lr = torch.rand(1, 3, 13, 10)
    with torch.no_grad():
        exact = network(lr)
        with torch.autocast("cpu", torch.bfloat16):
            rough = network(lr)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.05


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (8, 4), (9, 14)])
@pytest.mark.parametrize("padding", ["reflect", "symmetric"])
def test_pictures_of_any_size_are_enlarged(scale, size, padding):
    network = tiny_swinir(scale, padding=padding)
    with torch.no_grad():
        assert network(torch.rand(2, 3, *size)).shape == (2, 3, size[0] * scale, size[1] * scale)


@pytest.mark.parametrize("layers", [[1], [2], [3, 2]])
def test_receptive_radius_covers_all_that_a_pixel_depends_on(layers):
    network = tiny_swinir(layers=layers, heads=[2] * len(layers)).double()
    radius, window, scale = network.receptive_radius, network.config.window, network.scale
    # Far from any border, and a multiple of the window.
    middle = (radius // window + 2) * window
    x = torch.rand(1, 3, window, 2 * middle, dtype=torch.float64, requires_grad=True)
    y = network(x)
    reached = 0
    for place in range(window):
        column = scale * (middle + place)
        picked = y[0, :, :, column : column + scale].sum()
        (gradient,) = torch.autograd.grad(picked, x, retain_graph=True)
        touched = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        reached = max(reached, int((touched - middle - place).abs().max()))
    assert reached == radius


@pytest.mark.slow
@pytest.mark.parametrize(("height", "width", "tile"), [(37, 53, 16), (41, 23, 6), (29, 60, 29)])
@pytest.mark.parametrize("bits", [None, 8])
def test_tiles_join_to_the_whole_picture_on_odd_sizes(height, width, tile, bits):
    network = tiny_swinir()
    if bits:
        method = build_method(MinMaxConfig())
        quantize_network(network, method, FULL, Bits(bits, bits))
        method.calibrate(network, [torch.rand(2, 3, 12, 12)])
    lr = picture(height, width)
    runtime, traits = TorchRuntime(network, CPU), traits_of_network(network, "tiny")
    assert traits.alignment == 4
    whole = TiledUpscaler(runtime, traits)(lr)
    tiled = TiledUpscaler(runtime, traits, tile)(lr)
    assert whole.shape == (height * 2, width * 2, 3)
    difference = np.abs(whole.astype(int) - tiled)
    # Rounding may change a code when the order of summation differs.
    assert (difference > 0).mean() <= (1e-3 if bits else 1e-4)
    assert difference.max() <= (4 if bits else 1)


def test_tiles_that_begin_elsewhere_would_not_join():
    network = tiny_swinir()
    radius = network.receptive_radius
    lr = torch.rand(1, 3, 40, 40)
    with torch.no_grad():
        whole, part = network(lr), network(lr[:, :, 2:, 2:])
    cut = 2 * radius
    assert (part[:, :, cut:, cut:] - whole[:, :, cut + 4 :, cut + 4 :]).abs().max() > 1e-4


def test_sites_are_those_that_2dquant_quantizes_and_convolutions():
    network = build(SwinIRConfig())
    kinds = [site.kind for site in network.sites()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "head": 1,
        "linear": 24 * 6,
        "matmul": 24 * 2,
        "block": 4,
        "body_last": 1,
        "body_out": 1,
        "long_skip": 1,
        "tail": 1,
    }
    assert len({site.path for site in network.sites()}) == len(kinds)
    order = []
    for site in network.sites():
        network.get_submodule(site.path).register_forward_hook(
            lambda *_, path=site.path: order.append(path)
        )
    with torch.no_grad():
        network.to("meta")(torch.empty(1, 3, 8, 8, device="meta"))
    assert order == [site.path for site in network.sites()]


def test_2dquants_384_quantizers():
    network = tiny_swinir()
    method = build_method(MinMaxConfig())
    quantize_network(network, method, {**BLOCKS, "block": Operands()}, Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 8, 8)])
    bounds = [name for name, _ in network.named_parameters() if name.endswith("_quantizer.lower")]
    assert len(bounds) == 16 * 4  # of each layer; 24 of these in the published network
    # A softmax gives values between 0 and 1.
    mixes = [m for name, m in network.named_modules() if name.endswith(".mix")]
    assert all(isinstance(mix, QuantMatMul) for mix in mixes)
    assert all(0 <= mix.left_quantizer.lower < mix.left_quantizer.upper <= 1 for mix in mixes)


def test_a_saved_network_gives_the_same_outputs(tmp_path):
    network = tiny_swinir(padding="symmetric")
    save_model(tmp_path / "s.safetensors", network, Card())
    loaded, _ = load_model(tmp_path / "s.safetensors")
    assert loaded.config == network.config
    lr = torch.rand(1, 3, 9, 7)
    with torch.no_grad():
        assert torch.equal(loaded(lr), network(lr))


def test_x4_starts_from_the_body_of_x2():
    x2, x4 = tiny_swinir(2, seed=1), tiny_swinir(4, seed=2)
    x4.start_from(x2)
    ours, theirs = x4.state_dict(), x2.state_dict()
    assert all(torch.equal(ours[k], v) for k, v in theirs.items() if not k.startswith("tail."))


def test_tracing_finds_its_last_convolution_and_nothing_to_fold():
    network = tiny_swinir()
    assert linear_chain(network) == []
    stage = output_stage(network, (nn.Conv2d,))
    assert (stage.convolution, stage.enlargement, stage.denormalize) == ("tail.0", 2, "denormalize")


def graphs_and_reference(network, folder):
    """Run the graph of a network in both runtimes, and its network in torch."""
    path = folder / "swinir.onnx"
    found = deploy(network, "swinir", "uint8")
    save_graph(found.model, path)
    quantized = network.quantization is not None
    base = lower(network, reduce_range(freeze(network))) if quantized else network
    runtimes = [
        get_runtime("onnxruntime").open(path, 1, "auto"),
        get_runtime("openvino").open(path, 1, "fp32"),
    ]
    return runtimes, TorchRuntime(base, CPU)


def assert_equal_pictures(runtime, reference):
    # One window, less than one, and sizes that are no multiples.
    for size in ((4, 4), (3, 2), (13, 9), (33, 50)):
        lr = picture(*size)
        ours, theirs = runtime(lr), reference(lr)
        assert ours.shape == theirs.shape
        assert np.abs(ours.astype(int) - theirs).max() <= 1
        assert (ours != theirs).mean() <= 0.01


@pytest.mark.slow
def test_its_graph_enlarges_pictures_of_any_size_as_torch_does(tmp_path):
    runtimes, reference = graphs_and_reference(tiny_swinir(layers=[2], heads=[2]), tmp_path)
    for runtime in runtimes:
        assert_equal_pictures(runtime, reference)


@pytest.mark.slow
def test_linear_layers_and_products_are_integer_kernels(tmp_path):
    network = tiny_swinir(layers=[1], heads=[2])
    method = build_method(MinMaxConfig())
    placement = {kind: FULL[kind] for kind in ("linear", "matmul")}
    quantize_network(network, method, placement, Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 12, 12)])
    runtimes, reference = graphs_and_reference(network, tmp_path)
    for runtime in runtimes:
        assert_equal_pictures(runtime, reference)
    counts = [runtime.kernels() for runtime in runtimes]
    # Float are the four convolutions; in OpenVINO also the product of queries and keys.
    assert [(found.integer, found.floating) for found in counts] == [(8, 4), (7, 5)]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"embed_dim": 10, "heads": [4], "layers": [2]}, "embed_dim = 10"),
        ({"heads": [6], "layers": [2, 2]}, "one entry for each residual group"),
        ({"window": 7}, "window = 7: must be even"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(values, message):
    with pytest.raises(ValidationError, match=message):
        SwinIRConfig(**values)
