"""The learning rate of every step. Imports no torch."""

from __future__ import annotations

import math

from hpcbench.config.spec import RunSpec
from hpcbench.training.plan import Plan


def learning_rate(spec: RunSpec, plan: Plan, step: int) -> float:
    """Return the rate for a step, which counts from 0 over the run (formulas: `config.spec.Schedule`)."""
    schedule, base = spec.schedule, spec.optimizer.lr
    if spec.optimizer.lr_batch is not None:
        base *= spec.global_batch / spec.optimizer.lr_batch
    warmup = round(schedule.warmup_epochs * plan.steps_per_epoch)
    if step < warmup:
        return base * (step + 1) / warmup
    if schedule.name == "constant":
        return base
    if schedule.name == "step":
        return base * schedule.gamma ** (step // (schedule.step_epochs * plan.steps_per_epoch))
    progress = (step - warmup) / max(1, plan.total_steps - warmup)
    return base * 0.5 * (1 + math.cos(math.pi * progress))
