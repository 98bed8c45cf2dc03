"""Features of the processor."""

import pytest

from sr_quant_cli.system import processor


@pytest.mark.parametrize(
    ("flags", "vnni"),
    [("avx2 avx512_vnni amx_int8", True), ("avx2 avx_vnni", True), ("avx2 avx512f", False)],
)
def test_vnni_is_read_off_the_flags(tmp_path, monkeypatch, flags, vnni):
    (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags : fpu {flags}\n")
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "cpuinfo")
    assert processor.has_vnni() == vnni


def test_an_unknown_processor_is_taken_to_have_none(tmp_path, monkeypatch):
    monkeypatch.setattr(processor, "CPU_INFO", tmp_path / "none")
    assert not processor.has_vnni()
