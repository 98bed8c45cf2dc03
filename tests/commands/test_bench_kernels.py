"""``srq bench kernels``."""

import pytest

from sr_quant_cli.commands import bench_kernels as bench
from sr_quant_cli.commands.bench_kernels import FORMATS, bench_kernels
from sr_quant_cli.kernels.library import PORTABLE, available, kernels_of, missing, peak

pytestmark = pytest.mark.skipif(bool(missing()), reason="the kernels were not built")


def test_every_instruction_set_and_format_has_a_row():
    timings = bench_kernels(24, 10, 32, runs=1)
    rows = [(row.isa, row.format) for row in timings.rows]
    assert rows == [(isa, kind.name) for isa in available() for kind in FORMATS]
    algorithms = ["direct", "F(2x2,3x3)", "F(2x2,3x3)", "F(3x3,3x3)"]
    assert [row.algorithm for row in timings.rows] == algorithms * len(available())
    assert all((row.peak is None) == (row.isa == PORTABLE) for row in timings.rows)
    assert timings.to_json()["rows"][0]["format"] == "8 bits"


@pytest.mark.parametrize("channels", ["70", "0", "-16", "272"])
def test_other_numbers_of_channels_are_refused(srq, channels):
    code, _, error = srq("bench", "kernels", "--channels", channels)
    assert code == 2
    assert error == f"srq: error: --channels {channels}: must be a multiple of 16, at most 256\n"


def test_wider_vectors_have_a_higher_peak():
    peaks = {name: peak(kernels_of(name)) for name in available()}
    if len(peaks) < 2:
        pytest.skip("this processor runs plain C alone")
    assert peaks[available()[0]] > 3 * peaks[PORTABLE]


def test_no_direct_kernel_exceeds_the_peak(monkeypatch):
    best = available()[0]
    if best == PORTABLE:
        pytest.skip("this processor runs plain C alone")
    monkeypatch.setattr(bench, "available", lambda: [best])
    monkeypatch.setattr(bench, "FORMATS", FORMATS[:1])
    (row,) = bench_kernels(160, 90, 64, runs=5).rows
    assert row.algorithm == "direct"
    assert row.work < 1.1 * row.peak
