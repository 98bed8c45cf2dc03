"""Lines on the progress of work where there is no terminal."""

import pytest

from sr_quant_cli.report import terminal
from sr_quant_cli.report.terminal import TerminalReporter


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests set: seconds."""
    now = [0.0]
    monkeypatch.setattr(terminal.time, "monotonic", lambda: now[0])
    return now


def test_long_work_is_told_from_time_to_time(clock, capsys):
    reporter = TerminalReporter()
    with reporter.progress(100, "picture", "mixing") as bar:
        for _ in range(100):
            clock[0] += 1
            bar.update()
    with reporter.progress(3, "layer", "rounding") as bar:
        clock[0] += 29
        bar.update(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "mixing: picture 30/100  1 min left",
        "mixing: picture 60/100  1 min left",
        "mixing: picture 90/100  0 min left",
        "rounding: layer 0/3  2 min left",
    ]


def test_short_work_and_work_that_tells_more_has_no_such_lines(clock, capsys):
    reporter = TerminalReporter()
    with reporter.progress(10, "picture", "mixing") as bar:
        clock[0] += 20
        bar.update()
    reporter.result("a result")
    clock[0] += 20
    with reporter.progress(10, "step") as bar:
        bar.show(loss="0.5")
        clock[0] += 60
        bar.update()
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out == "a result\nstep 0/10  loss 0.5\n"


def test_bytes_are_told_in_megabytes(clock, capsys):
    with TerminalReporter().progress(800_000_000, "B", "a.zip") as bar:
        clock[0] += 60
        bar.update(200_000_000)
    assert capsys.readouterr().err == "a.zip: 200 of 800 MB  3 min left\n"
