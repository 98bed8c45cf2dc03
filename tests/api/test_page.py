"""The blocks of docs/python.md run one after the other and print what the page says."""

import re
from pathlib import Path

import pytest
import torch

from sr_quant_cli.modelfiles.card import Card
from sr_quant_cli.modelfiles.modelfile import save_model
from tests.helpers import tiny_edsr

PAGE = Path(__file__).parents[2] / "docs/python.md"
BLOCKS = re.compile(r"^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)

LONG, SHORT = (
    "for each in photographs])",
    "for each in photographs], overrides={'calibration.images': 2, 'calibration.patch_lr': 12, "
    "'calibration.mix': False})",
)
"""The end of the calibration on the page, and in the test, where it is to take seconds."""


@pytest.mark.slow
def test_the_page_runs_from_top_to_bottom(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(tmp_path / "mine.safetensors", tiny_edsr(4), Card(name="mine"))
    text = PAGE.read_text(encoding="utf-8")
    assert text.count(LONG) == 1
    blocks = BLOCKS.findall(text.replace(LONG, SHORT))
    assert len(blocks) >= 12
    names = {}
    for code, printed in blocks:
        exec(compile(code, PAGE.name, "exec"), names)
        assert capsys.readouterr().out == printed, code
    assert isinstance(names["model"].to_torch(), torch.nn.Module)
