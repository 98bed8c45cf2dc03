"""Learning rate as a function of the step."""

import math

from sr_quant_cli.recipe.schema import ScheduleSection


def learning_rate(schedule: ScheduleSection, base: float, step: int, iters: int) -> float:
    """Learning rate of step ``step`` (from 0) of ``iters``.

    >>> learning_rate(ScheduleSection(kind="step", every=10, gamma=0.5), 1e-4, 25, 100)
    2.5e-05
    >>> learning_rate(ScheduleSection(kind="cosine", final_lr=0.0), 1e-4, 50, 100)
    5e-05
    """
    if step < schedule.warmup:
        return base * (step + 1) / schedule.warmup
    match schedule.kind:
        case "step":
            return base * schedule.gamma ** (step // schedule.every)
        case "cosine":
            progress = (step - schedule.warmup) / max(iters - schedule.warmup, 1)
            half = (1 + math.cos(math.pi * min(progress, 1.0))) / 2
            return schedule.final_lr + (base - schedule.final_lr) * half
        case "constant":
            return base
