"""Learning rate schedules, as functions of the step."""

import math

from sr_quant_cli.recipe.schema import ScheduleSection


def rate_factor(schedule: ScheduleSection, step: int, iters: int) -> float:
    """Compute the factor on the learning rate at ``step`` (from 0) of ``iters``.

    >>> rate_factor(ScheduleSection(kind="step", every=10, gamma=0.5), 25, 100)
    0.25
    >>> rate_factor(ScheduleSection(kind="milestones", at=[10, 30], gamma=0.5), 25, 100)
    0.5
    >>> rate_factor(ScheduleSection(kind="cosine", final=0.0), 50, 100)
    0.5
    """
    if step < schedule.warmup:
        return (step + 1) / schedule.warmup
    match schedule.kind:
        case "step":
            return schedule.gamma ** (step // schedule.every)
        case "milestones":
            return schedule.gamma ** sum(step >= milestone for milestone in schedule.at)
        case "cosine":
            progress = (step - schedule.warmup) / max(iters - schedule.warmup, 1)
            half = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
            return schedule.final + (1 - schedule.final) * half
        case "constant":
            return 1.0
