import pytest

from sr_quant_cli.recipe.schema import ScheduleSection
from sr_quant_cli.training.schedule import rate_factor


def test_step_schedule_halves_at_every_boundary():
    schedule = ScheduleSection(kind="step", every=200, gamma=0.5)
    rates = [rate_factor(schedule, step, 600) for step in (0, 199, 200, 399, 400)]
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.25])


def test_milestones_decay_at_their_steps():
    schedule = ScheduleSection(kind="milestones", at=[250, 400], gamma=0.5)
    rates = [rate_factor(schedule, step, 500) for step in (0, 249, 250, 399, 400, 499)]
    assert rates == pytest.approx([1, 1, 0.5, 0.5, 0.25, 0.25])


def test_cosine_schedule_goes_from_base_to_final():
    schedule = ScheduleSection(kind="cosine", final=0.1)
    rates = [rate_factor(schedule, step, 300) for step in (0, 100, 150, 200, 300)]
    assert rates == pytest.approx([1, 0.775, 0.55, 0.325, 0.1])


def test_warmup_rises_linearly_to_the_base():
    schedule = ScheduleSection(kind="constant", warmup=4)
    rates = [rate_factor(schedule, step, 100) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
