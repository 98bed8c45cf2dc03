"""Pages that put the commands of other projects into srq's: all lines are run, with few steps."""

import pytest
import torch

from sr_quant_cli.data.bicubic import downscale
from sr_quant_cli.imaging.io import write_rgb
from sr_quant_cli.methods.ddtb import DDTBConfig
from tests.helpers import picture, tiny_edsr
from tests.modelfiles.released import (
    EDSR,
    cadyq_idn,
    carn,
    ddtb_state,
    edsr_for,
    quantized,
    quantsr_c,
    renamed,
    srresnet,
    swinir,
    twice,
    twodquant,
)
from tests.modelfiles.test_cadyq_layouts import idn_pams
from tests.modelfiles.test_checkpoints import edsr_pytorch
from tests.test_docs import BLOCK, NOT_RUN, ROOT, SHORTER, commands, longest

PAGES = sorted((ROOT / "docs/from").glob("*.md"))
SMALL = {
    "rdn": "--set network.n_blocks=1 --set network.n_layers=2 --set network.growth=4",
    "edsr": "--set network.n_blocks=1",
    "srresnet": "--set network.n_blocks=1",
    "quantsr_c": "--set network.n_blocks=4",
}
"""Options that make the networks of ``srq pretrain`` small."""


def daq_edsr(scale):
    """Names of DAQ, which are EDSR-PyTorch's but for the blocks."""
    tensors = edsr_pytorch(tiny_edsr(scale))
    return {
        key.replace(".body.0.", ".conv1.").replace(".body.2.", ".conv2."): tensor
        for key, tensor in tensors.items()
    }


def ddtb_edsr():
    network = quantized(edsr_for(), DDTBConfig(variant="code"), bits=(4, 4))
    return twice(ddtb_state(renamed(network, EDSR)))


CHECKPOINTS = {
    "daq": {
        "edsr_full_x4_reproduce.pt": lambda: edsr_pytorch(tiny_edsr(4)),
        **{f"edsr_baseline-x4-daq-w{b}a{b}qq4.pt": lambda: daq_edsr(4) for b in (2, 3, 4)},
        "edsr_full-x4-daq-w2a2qq8.pt": lambda: daq_edsr(4),
    },
    "cadyq": {
        "carn_x4.pt": lambda: carn(4)[1],
        "idn_x4.pt": lambda: cadyq_idn(4)[1],
        "idn_x4_pams_w8a8.pt": idn_pams,
        "edsr_x4.pt": lambda: edsr_pytorch(tiny_edsr(4)),
        "srresnet_x4.pt": lambda: srresnet("shared")[1],
    },
    "ddtb": {"ddtb_edsr_x4_4bit.pt": ddtb_edsr},
    "quantsr": {"QuantSR_C_x4_4bit.pth": lambda: quantsr_c(n_blocks=32)[1]},
    "2dquant": {
        **{
            f"002_lightweightSR_DIV2K_s64w8_SwinIR-S_x{s}.pth": lambda s=s: swinir(s)[1]
            for s in (2, 4)
        },
        "net_Q_3200.pth": lambda: {"params": twodquant()[1]},
    },
}
"""Small checkpoints in the authors' form, by page and file name."""

RESULTS = {
    "ddtb": "experiment/output/edsrx4/4bit/results-Set5/baby_x4_SR.png",
    "quantsr": "results/QuantSR_C_x4_4bit/visualization/Set5/baby_QuantSR_C_x4_4bit.png",
    "2dquant": "results/test_2DQuant_x2_bit4/visualization/Set5/baby_31.23_.png",
}
"""Pictures that the authors' code saves."""


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder with small data sets as the authors lay them out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SRQ_DATA", raising=False)
    for folder, count in (("DIV2K/DIV2K_train_HR", 3), ("DIV2K/DIV2K_valid_HR", 1), ("DF2K/HR", 3)):
        for index in range(count):
            hr = picture(64, 72, seed=index)
            write_rgb(tmp_path / "datasets" / folder / f"{index:04}.png", hr)
            for scale in (2, 4):
                lr = tmp_path / f"datasets/DF2K/LR_bicubic/X{scale}/{index:04}x{scale}.png"
                write_rgb(lr, downscale(hr, scale))
    for name in ("Set5", "Set14", "B100", "Urban100", "Manga109"):
        write_rgb(tmp_path / f"datasets/benchmark/{name}/HR/baby.png", picture(64, 72))
    for scale in (2, 4):
        lr = tmp_path / f"datasets/benchmark/Manga109/LR_bicubic/X{scale}/baby_LRBI_x{scale}.png"
        write_rgb(lr, downscale(picture(64, 72), scale))
    for number in range(1201, 1401):
        write_rgb(tmp_path / f"DIV8K/train/{number}.png", picture(24, 24))
    return tmp_path


def shorter(command):
    key = longest(SHORTER, command)
    # DDTB's gates have batch normalization, which needs two samples.
    more = SHORTER[key].replace("train.batch=1", "train.batch=2").split() if key else []
    if command[1] == "pretrain":
        more += SMALL[command[2]].split()
    return more


def test_every_project_has_a_page():
    assert {page.stem for page in PAGES} == set(CHECKPOINTS)


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_from_top_to_bottom(page, desk, srq):
    for name, make in CHECKPOINTS[page.stem].items():
        torch.save(make(), name)
    if page.stem in RESULTS:
        write_rgb(desk / RESULTS[page.stem], picture(64, 72, seed=1))
    ran = set()
    for kind, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        assert kind == "sh"
        for command in commands(block):
            if longest(NOT_RUN, command):
                continue
            full = [*command, *shorter(command)]
            code, _, err = srq(*full[1:])
            assert code == 0, f"{' '.join(full)}\n{err}"
            ran.add(command[1])
    assert {"eval", "quantize"} <= ran
