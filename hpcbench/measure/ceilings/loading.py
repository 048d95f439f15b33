"""The loader alone: every batch is taken and dropped, by all local ranks at once."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hpcbench.measure.ceilings.team import Team

FIRST_PASS_S = 0.5
CHUNK = 8
PASSES = 3


@dataclass(frozen=True)
class Feed:
    """A rank's loader: `take` yields the batches of some of the `steps` of an epoch.

    `wait` returns when what was begun on the device is done.
    """

    steps: int
    take: Callable[[Sequence[int]], Iterable[object]]
    wait: Callable[[], None]


def time_loading(team: Team, feed: Feed | None) -> tuple[int, float]:
    """Return how many steps each process has loaded, and in how many seconds the slowest of this node.

    The first pass finds out how many batches half a second brings; it starts the loader's processes and
    fills its cache. The same batches are then loaded again, and the fastest of the passes counts.
    """
    mine = _first_pass(feed) if feed else None
    loaded = [steps for steps in team.gather(mine) if steps is not None]
    steps = min(loaded)
    best = float("inf")
    for _ in range(PASSES):
        team.barrier()
        took = _pass(feed, steps) if feed else 0.0
        best = min(best, max(team.on_my_node(team.gather(took))))
    return steps, best


def _first_pass(feed: Feed) -> int:
    began, done = time.perf_counter(), 0
    while done < feed.steps and time.perf_counter() - began < FIRST_PASS_S:
        last = min(done + CHUNK, feed.steps)
        for _ in feed.take(range(done, last)):
            continue
        done = last
    feed.wait()
    return done


def _pass(feed: Feed, steps: int) -> float:
    began = time.perf_counter()
    for _ in feed.take(range(steps)):
        continue
    feed.wait()
    return time.perf_counter() - began
