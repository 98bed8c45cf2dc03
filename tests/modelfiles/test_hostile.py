"""Untrusted model files: any claim is refused in one line, with little memory."""

import json
import resource

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from sr_quant_cli.errors import UsageError
from sr_quant_cli.methods import build as build_method
from sr_quant_cli.methods import config_class
from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import load_model, pack_model, save_model
from sr_quant_cli.passes.apply import quantize_network
from sr_quant_cli.quant.plan import Bits
from sr_quant_cli.quant.sites import FULL
from tests.helpers import tiny_edsr


@pytest.fixture
def quantized_model(tmp_path):
    """Packed model file of a tiny x2 network at w4a4, with all convolutions on integers."""
    network, method = tiny_edsr(), build_method(config_class("minmax")())
    quantize_network(network, method, FULL, Bits(4, 4))
    method.calibrate(network, [torch.rand(2, 3, 12, 12)])
    save_model(tmp_path / "q.safetensors", network, Card(name="tiny"))
    return tmp_path / "q.safetensors"


def header_of(path):
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["srq"])


def rewrite(path, header=None, tensors=None):
    """Rewrite a model file with another header or other tensors."""
    header = header_of(path) if header is None else header
    text = header if isinstance(header, str) else json.dumps(header)
    save_file(load_file(path) if tensors is None else tensors, path, metadata={"srq": text})


def refused(path, message):
    with pytest.raises(UsageError) as caught:
        load_model(path)
    assert str(caught.value).startswith(f"{path}")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        ({"n_blocks": 10**9}, "n_blocks: must be at most 65536"),
        ({"n_blocks": 10**400}, "n_blocks: must be"),
        ({"n_blocks": 60_000}, "network: far larger than the tensors of the file"),
        ({"n_blocks": 60_000, "n_feats": 1}, "network: far larger than the tensors of the file"),
        ({"n_feats": 6000}, "network: far larger than the tensors of the file"),
        ({"n_feats": 65_536}, "network: far larger than the tensors of the file"),
        ({"n_feats": 16}, "body.0.conv1.bias is [8], in this edsr [16]"),
        ({"res_scale": 1e308}, "res_scale: must be at most 100"),
        ({"res_scale": "1"}, "res_scale: must be a number"),
        ({"scale": 7}, "scale: must be 2, 3, 4 or 8"),
        ({"name": "nothing"}, "unknown network 'nothing'"),
        ({"name": ["edsr"]}, "unknown network"),
        ({"other": 1}, "other: unknown key"),
        (
            {"name": "swinir_light", "window": 256, "layers": [2] * 200, "heads": [6] * 200},
            "network",
        ),
    ],
)
def test_a_network_that_its_tensors_do_not_fill_is_not_built(tiny_model, claim, message):
    header = header_of(tiny_model)
    header["network"] |= claim
    if claim.get("name", "edsr") != "edsr":
        header["network"] = {"scale": 2} | claim
    rewrite(tiny_model, header)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused(tiny_model, message)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # KiB


@pytest.mark.parametrize(
    ("site", "operands", "message"),
    [
        ("body.9.conv1", {"input": 4}, "sites.body.9.conv1: no such site in this network; did you"),
        ("x" * 10_000, {"input": 4}, "x: no such site in this network; it has head, block_in"),
        ("body.0.conv1", {"input": 0}, "sites.body.0.conv1.input: must be 2 to 8 (bits)"),
        ("body.0.conv1", {"weight": 99}, "sites.body.0.conv1.weight: must be 2 to 8 (bits)"),
        ("body.0.conv1", {"weight": "5"}, "sites.body.0.conv1.weight: must be 2 to 8 (bits)"),
        ("body.0.conv1", {"bias": 4}, "sites.body.0.conv1.bias: unknown key"),
        ("body.0.conv1", None, "sites.body.0.conv1: is missing"),
        ("body.0.block_in", {"weight": 4}, "sites.body.0.block_in.weight: this site has no weight"),
        (
            "body.0.conv1",
            {"input": 4, "dynamic": True},
            "dynamic: needs a method that chooses bits",
        ),
        ("body.0.conv1", {}, "are not those of the network's sites"),
        ("body.0.conv1", {"input": 4, "weight": 8, "integer": True}, "576 codes of 8 bits"),
    ],
)
def test_every_site_of_a_header_is_looked_at(quantized_model, site, operands, message):
    header = header_of(quantized_model)
    header["quantization"]["sites"][site] = operands
    if operands is None:
        del header["quantization"]["sites"][site]
    rewrite(quantized_model, header)
    refused(quantized_model, message)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input": "BGR, 0..255"}, "input: must be 'RGB, 0..1, NCHW'"),
        ({"output": "YCbCr"}, "output: must be 'RGB, 0..1, NCHW'"),
        ({"format": 99}, "format: must be 1 or 2"),
        ({"more": 1}, "more: unknown key"),
        ({"network": []}, "network: must be a table"),
        ({"version": 1}, "version: must be text"),
        ({"card": {"name": 3}}, "card.name: must be text"),
        ({"card": {"training": [{"task": "pretrain"}]}}, "card.training.0"),
        ({"card": {"scores": [{"psnr": float("inf")}]}}, "card.scores.0"),
        ({"quantization": {"w": 9}}, "quantization.w: must be 2 to 8 (bits)"),
        ({"quantization": {"a": 4.5}}, "quantization.a: must be 2 to 8 (bits)"),
        ({"quantization": {"method": {"name": "none"}}}, "unknown method 'none'"),
        ({"quantization": {"method": {}}}, "unknown method"),
        ({"quantization": {"method": {"name": "minmax", "x": 1}}}, "x: "),
        ({"quantization": {"placement": {"nowhere": {}}}}, "placement.nowhere: no such site"),
        (
            {"quantization": {"placement": {"head": {"input": "int9"}}}},
            "placement.head.input: must",
        ),
        ({"quantization": {"placement": {"head": {"input": 99}}}}, "placement.head.input: must be"),
        ({"quantization": {"sites": {}}}, "sites.head: is missing"),
        ({"quantization": {"sites": None, "placement": {}}}, "no site is quantized"),
        ({"inputs": ["head"]}, "are not those of the network's sites"),
    ],
)
def test_every_field_of_a_header_is_looked_at(quantized_model, change, message):
    header = header_of(quantized_model)
    for key, value in change.items():
        if key in ("quantization", "card"):
            header[key] |= value
        else:
            header[key] = value
    rewrite(quantized_model, header)
    refused(quantized_model, message)


@pytest.mark.parametrize(
    "text",
    ["", "[", "3", "null", "[" * 100_000, '{"a":' * 100_000, f'{{"format": {"9" * 5000}}}', "\x00"],
)
def test_a_header_that_is_no_table_is_refused(tiny_model, text):
    rewrite(tiny_model, text)
    refused(tiny_model, "header: ")


WEIGHT, LEVELS = "body.0.conv1.weight_codes", "body.0.conv1.weight_quantizer.levels"


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (LEVELS, lambda t: torch.full_like(t, torch.inf), f"{LEVELS} has values that are no"),
        (LEVELS, lambda t: torch.full_like(t, 1e30), "is no first code of a grid"),
        (LEVELS, lambda t: t * 0, "its grid has a step of 0, steps are above 0"),
        (LEVELS, lambda t: t[:-1], "levels of shape"),
        (LEVELS, lambda t: t.int(), "must be torch.float32"),
        (LEVELS, lambda t: t[0], "levels of shape []"),
        (WEIGHT, lambda t: t.to(torch.int8), f"{WEIGHT} is torch.int8, must be torch.uint8"),
        (WEIGHT, lambda t: t[:-1], "are 288 bytes"),
        (WEIGHT, lambda t: t[:0], "are 288 bytes"),
        ("input_levels", lambda t: t[:-1], "input_levels of shape"),
        ("input_levels", lambda t: t[0, 0], "input_levels of shape []"),
        ("input_levels", lambda t: torch.full_like(t, torch.inf), "inf is no first code"),
        ("input_levels", lambda t: torch.full_like(t, 1e30), "1e+30 is no first code"),
        ("input_levels", lambda t: torch.zeros_like(t), "its grid has a step of 0"),
        ("input_levels", lambda t: t * torch.tensor([1, 0, 0, 1, 1]), "is no range"),
        ("head.bias", lambda t: t.fill_(torch.nan), "head.bias has values that are no finite"),
        ("head.bias", lambda t: t[0], "head.bias is [], in this edsr [8]"),
        ("head.bias", lambda t: t.int(), "head.bias is torch.int32, in this edsr torch.float32"),
    ],
)
def test_tensors_are_compared_before_any_is_used(quantized_model, key, change, message):
    tensors = load_file(quantized_model)
    tensors[key] = change(tensors[key]).contiguous()
    rewrite(quantized_model, tensors=tensors)
    refused(quantized_model, message)


def test_weights_that_are_no_numbers_are_named(tiny_model):
    tensors = load_file(tiny_model)
    tensors["body.0.conv1.weight"][0] = torch.inf
    tensors["tail.bias"][0] = torch.nan
    rewrite(tiny_model, tensors=tensors)
    refused(tiny_model, "body.0.conv1.weight has values that are no finite numbers (infinity)")
    refused(tiny_model, "(and 1 other tensors)")


def test_weights_that_float16_does_not_hold_are_not_halved(tiny_model, tmp_path):
    tensors = load_file(tiny_model)
    tensors["tail.bias"][0] = 1e6
    rewrite(tiny_model, tensors=tensors)
    with pytest.raises(UsageError, match=r"float16 weights: tail\.bias has values"):
        pack_model(tiny_model, tmp_path / "half.safetensors", {}, half=True)
    assert not (tmp_path / "half.safetensors").exists()


def test_ranges_of_activations_go_by_their_names(quantized_model):
    x = torch.rand(1, 3, 8, 8)
    outputs = load_model(quantized_model)[0](x)
    header, tensors = header_of(quantized_model), load_file(quantized_model)
    order = torch.randperm(len(header["inputs"]))
    header["inputs"] = [header["inputs"][i] for i in order]
    tensors["input_levels"] = tensors["input_levels"][order].contiguous()
    rewrite(quantized_model, header, tensors)
    assert torch.equal(load_model(quantized_model)[0](x), outputs)


def test_a_file_of_format_1_is_read(quantized_model):
    x = torch.rand(1, 3, 8, 8)
    outputs = load_model(quantized_model)[0](x)
    header = header_of(quantized_model)
    del header["inputs"], header["card"]["source"]
    rewrite(quantized_model, header | {"format": 1})
    network, read = load_model(quantized_model)
    assert read.format == 1
    assert torch.equal(network(x), outputs)


def test_a_range_that_was_never_found_is_refused(tmp_path):
    network, method = tiny_edsr(), build_method(config_class("minmax")())
    quantize_network(network, method, FULL, Bits(4, 4))
    save_model(tmp_path / "q.safetensors", network, Card(), packed=False)
    refused(tmp_path / "q.safetensors", "was not calibrated")
