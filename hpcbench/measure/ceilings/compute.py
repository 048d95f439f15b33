"""A model alone: it trains on eight rotating random batches that lie on its device already.

One repeated batch would stay in the caches and give figures that no training reaches (MEASURING rule 8).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Generic, TypeVar

from torch.utils.flop_counter import FlopCounterMode

from hpcbench.measure.ceilings.team import Team, median_by, times_that_fit
from hpcbench.training.measurement import WindowTimes, clock_for

B = TypeVar("B")
ROTATING_BATCHES = 8
WARM_UP_STEPS = 3
WINDOWS, WINDOW_S = 2, 0.35
LEAST_STEPS, MOST_STEPS = 2, 200
# A step that takes so long is measured in one window: it is no matter of a moment's disturbance any more.
LONG_STEP_S = 2.0


@dataclass(frozen=True)
class Trainer(Generic[B]):
    """One process's model with its batches, and the two parts of a step."""

    batches: Sequence[B]
    forward_backward: Callable[[B], object]
    update: Callable[[], object]


def count_flop(trainer: Trainer[B]) -> int:
    """Count the floating-point operations of forward and backward over one batch (MEASURING rule 9)."""
    with FlopCounterMode(display=False) as counter:
        trainer.forward_backward(trainer.batches[0])
    trainer.update()
    return int(counter.get_total_flops())


def time_training(team: Team, trainer: Trainer[B] | None) -> WindowTimes:
    """Train at the same time on all processes that have a trainer, and return how fast that goes here.

    Of several windows the fastest on this node counts, since a ceiling is what a device can do and not what
    somebody else left of it; in it, the process in the middle.
    """
    once = _window(team, trainer, 1, warm_up=WARM_UP_STEPS)
    once_s = team.largest(once.wall_s if once else 0.0)
    steps = times_that_fit(WINDOW_S, once_s, LEAST_STEPS, MOST_STEPS)
    windows = 1 if once_s > LONG_STEP_S else WINDOWS
    seen = team.gather([_window(team, trainer, steps) for _ in range(windows)])
    at_once = [[each for each in window if each] for window in zip(*team.on_my_node(seen), strict=True)]
    fastest = min(at_once, key=lambda window: max(each.wall_s for each in window))
    middle: WindowTimes = median_by(fastest, lambda each: each.wall_s)
    return middle


def _window(team: Team, trainer: Trainer[B] | None, steps: int, warm_up: int = 0) -> WindowTimes | None:
    if trainer is None:
        team.barrier()
        return None
    batches = islice(cycle(trainer.batches), warm_up + steps)
    for batch in islice(batches, warm_up):
        trainer.forward_backward(batch)
        trainer.update()
    clock = clock_for(team.device)
    team.barrier()
    clock.begin()
    for batch in batches:
        clock.enter("data_wait")  # where a step begins; there is nothing to wait for
        clock.enter("forward_backward")
        trainer.forward_backward(batch)
        clock.enter("update")
        trainer.update()
    clock.enter("other")
    return clock.end()
