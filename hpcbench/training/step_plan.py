"""Which steps a run does, in which epochs and timed windows, and the learning rate of each step.

Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from hpcbench.sweep.run_spec import RunSpec


class TooFewSamplesError(ValueError):
    """The training set does not fill one step of all ranks."""


@dataclass(frozen=True)
class StepWindow:
    """Consecutive steps that are timed as one; warm-up windows train but do not count."""

    steps: range
    counted: bool


@dataclass(frozen=True)
class StepPlan:
    """The steps of a run; they count from 0 over the whole run.

    An epoch drops its remainder: floor(samples / samples per step) steps, the same for every strategy.
    """

    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    window_steps: int

    @classmethod
    def of(cls, spec: RunSpec, train_samples: int) -> StepPlan:
        """Plan a run over a training set of that many samples; raises TooFewSamplesError."""
        per_epoch = train_samples // spec.samples_per_step
        if per_epoch == 0:
            raise TooFewSamplesError(
                f"a step of all ranks takes {spec.samples_per_step} samples, more than the training set of "
                f"{train_samples}"
            )
        per_epoch = min(per_epoch, spec.steps_per_epoch or per_epoch)  # --smoke cuts epochs short
        total = spec.steps if spec.steps is not None else per_epoch * (spec.epochs or 0)
        # A run shorter than its warm-up would have nothing to report: at most half of it warms up.
        return cls(per_epoch, total, min(spec.warmup_steps, total // 2), spec.window_steps)

    def resumed_at(self, epochs: int) -> StepPlan:
        """Return the plan of a process that begins after some epochs: it has to warm up, too."""
        first = min(epochs * self.steps_per_epoch, self.total_steps)
        return replace(self, warmup_steps=min(first + self.warmup_steps, self.total_steps))

    @property
    def epochs(self) -> int:
        """Epochs begun; the last may be cut short by `steps`."""
        return math.ceil(self.total_steps / self.steps_per_epoch)

    def steps_of(self, epoch: int) -> range:
        """Return the steps of an epoch, which counts from 0."""
        first = epoch * self.steps_per_epoch
        return range(first, min(first + self.steps_per_epoch, self.total_steps))

    def windows(self, epoch: int) -> Iterator[StepWindow]:
        """Cut an epoch into windows that end with warm-up, every `window_steps`, and with the epoch."""
        steps = self.steps_of(epoch)
        first = steps.start
        while first < steps.stop:
            last = min(first + self.window_steps, steps.stop)
            if first < self.warmup_steps:
                last = min(last, self.warmup_steps)
            yield StepWindow(range(first, last), counted=first >= self.warmup_steps)
            first = last


def learning_rate(spec: RunSpec, plan: StepPlan, step: int) -> float:
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
