"""Stages that overlap."""

import threading

import pytest

from sr_quant_cli.commands.pipeline import AHEAD, overlap
from sr_quant_cli.errors import FailedError, UsageError


class Stages:
    """Stages that note what runs."""

    def __init__(self, failing=()):
        self.failing = set(failing)
        self.outcomes = []
        self.held = self.most = 0
        self.lock = threading.Lock()

    def fail(self, stage, item):
        if (stage, item) in self.failing:
            raise UsageError(f"{stage} {item}")

    def read(self, item):
        self.fail("read", item)
        with self.lock:
            self.held += 1
            self.most = max(self.most, self.held)
        return item * 10

    def compute(self, item, opened):
        self.fail("compute", item)
        return opened + 1

    def write(self, item, made):
        self.fail("write", item)
        with self.lock:
            self.held -= 1
        return made + 1

    def run(self, items):
        def finished(item, outcome):
            self.outcomes.append((item, str(outcome)))

        overlap(items, self.read, self.compute, self.write, finished)


def test_outcomes_come_in_order_and_errors_are_outcomes():
    stages = Stages({("read", 1), ("compute", 3), ("write", 4)})
    stages.run(range(7))
    assert stages.outcomes == [
        (0, "2"),
        (1, "read 1"),
        (2, "22"),
        (3, "compute 3"),
        (4, "write 4"),
        (5, "52"),
        (6, "62"),
    ]


def test_the_stages_of_neighbours_run_at_the_same_time():
    """Each stage waits for one of another item; one after the other they would never end."""
    meeting = threading.Barrier(3, timeout=20)
    seen = []

    def together(stage, item, expected):
        if item == expected:
            meeting.wait()
            seen.append(stage)
        return item

    overlap(
        range(6),
        lambda item: together("read", item, 3),
        lambda item, _: together("compute", item, 2),
        lambda item, _: together("write", item, 1),
        lambda *_: None,
    )
    assert sorted(seen) == ["compute", "read", "write"]


def test_no_more_than_a_few_items_are_held():
    stages = Stages()
    stages.run(range(100))
    assert len(stages.outcomes) == 100
    assert stages.most <= 2 * AHEAD + 4


def test_an_interrupt_abandons_the_rest_and_tells_what_was_written():
    stages = Stages()

    def compute(item, opened):
        if item == 5:
            raise KeyboardInterrupt
        return opened

    outcomes = []
    with pytest.raises(KeyboardInterrupt):
        overlap(range(9), stages.read, compute, stages.write, lambda item, _: outcomes.append(item))
    assert outcomes == sorted(outcomes)
    assert set(outcomes) <= {0, 1, 2, 3, 4}
    assert {0, 1} <= set(outcomes)


def test_a_defect_is_no_outcome():
    with pytest.raises(ZeroDivisionError):
        overlap([1], lambda item: item, lambda *_: 0, lambda *_: 1 // 0, lambda *_: None)


def test_an_error_of_the_last_step_ends_the_batch():
    def finished(item, outcome):
        raise FailedError(f"{item}: {outcome}")

    with pytest.raises(FailedError, match="1: 1"):
        overlap([1, 2], lambda item: item, lambda item, _: item, lambda item, _: item, finished)
