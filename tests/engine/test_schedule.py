import pytest

from sr_quant_cli.engine.schedule import learning_rate
from sr_quant_cli.recipe.schema import ScheduleSection


def test_step_schedule_halves_at_every_boundary():
    schedule = ScheduleSection(kind="step", every=200, gamma=0.5)
    rates = [learning_rate(schedule, 1e-4, step, 600) for step in (0, 199, 200, 399, 400)]
    assert rates == pytest.approx([1e-4, 1e-4, 5e-5, 5e-5, 2.5e-5])


def test_cosine_schedule_goes_from_base_to_final():
    schedule = ScheduleSection(kind="cosine", final_lr=1e-6)
    rates = [learning_rate(schedule, 1e-4, step, 300) for step in (0, 100, 150, 200, 300)]
    middle = (1e-4 + 1e-6) / 2
    quarter = (1e-4 - 1e-6) / 4
    assert rates == pytest.approx([1e-4, middle + quarter, middle, middle - quarter, 1e-6])


def test_warmup_rises_linearly_to_the_base():
    schedule = ScheduleSection(kind="constant", warmup=4)
    rates = [learning_rate(schedule, 1.0, step, 100) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
