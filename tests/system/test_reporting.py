"""Reports of running work."""

import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier

from sr_quant_cli.system.reporting import (
    Silent,
    note,
    progress,
    reporting,
    reporting_here,
    result,
    track,
    warn,
)


class Listener:
    """Reporter that stores everything it receives."""

    def __init__(self):
        self.heard = []

    def result(self, line):
        self.heard.append(("result", line))

    def note(self, line):
        self.heard.append(("note", line))

    def warn(self, line):
        self.heard.append(("warn", line))

    @contextmanager
    def progress(self, total, unit, what="", done=0):
        self.heard.append((what, done, total, unit))
        yield self

    def update(self, steps=1):
        self.heard.append(steps)

    def show(self, **values):
        self.heard.append(values)


def tell_everything():
    result("a picture")
    note("a graph is made")
    warn("few photographs")
    with progress(10, "step", "training", done=3) as bar:
        bar.update(2)
        bar.show(loss="1.5")
    assert list(track("ab", 2, "letter")) == ["a", "b"]


def test_a_reporter_hears_all_that_is_told_in_its_block(capfd):
    with reporting(Silent()):
        with reporting(listener := Listener()):
            tell_everything()
        result("nobody listens any more")
    assert listener.heard == [
        ("result", "a picture"),
        ("note", "a graph is made"),
        ("warn", "few photographs"),
        ("training", 3, 10, "step"),
        2,
        {"loss": "1.5"},
        ("", 0, 2, "letter"),
        1,
        1,
    ]
    assert capfd.readouterr() == ("", "")


def test_by_default_only_warnings_are_heard(capfd, caplog):
    with reporting(Silent()), caplog.at_level(logging.WARNING, logger="srq"):
        result("a picture")
        note("a graph is made")
        warn("few photographs")
        with progress(10, "step") as bar:
            bar.update()
            bar.show(loss="1.5")
    assert caplog.messages == ["few photographs"]
    assert capfd.readouterr().out == ""


def test_a_reporter_for_one_thread_hears_that_thread_alone():
    heard = {name: Listener() for name in ("a", "b", "all")}
    both = Barrier(2)

    def work(name):
        with reporting_here(heard[name]):
            both.wait()
            note(f"by {name}")
            both.wait()
        note(f"after {name}")

    with reporting(heard["all"]), ThreadPoolExecutor(2) as pool:
        list(pool.map(work, "ab"))
    assert heard["a"].heard == [("note", "by a")]
    assert heard["b"].heard == [("note", "by b")]
    assert sorted(heard["all"].heard) == [("note", "after a"), ("note", "after b")]
