"""The processes of a probe: where each one is, barriers, gathered values."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

Gathered = TypeVar("Gathered")


@dataclass(frozen=True)
class ProbeLocation:
    """Where a process of the probe is."""

    node: int
    local_rank: int


@dataclass(frozen=True)
class ProbeTeam:
    """All processes of a probe. They talk over the default process group; one alone has none."""

    rank: int
    places: tuple[ProbeLocation, ...]
    device: torch.device

    @classmethod
    def meet(cls, rank: int, size: int, place: ProbeLocation, device: torch.device) -> ProbeTeam:
        """Exchange the locations of all processes."""
        alone = cls(rank, (place,) * size, device)
        return cls(rank, tuple(alone.gather(place)), device)

    @property
    def place(self) -> ProbeLocation:
        """Where this process is."""
        return self.places[self.rank]

    @property
    def leads(self) -> bool:
        """Whether this process writes for its node."""
        return self.place.local_rank == 0

    def works(self, at_once: int) -> bool:
        """Return whether this process is among those of its node that do something at once."""
        return self.place.local_rank < at_once

    def barrier(self) -> None:
        """Wait for all, also for those that do nothing."""
        if len(self.places) > 1:
            dist.barrier()

    def gather(self, value: Gathered) -> list[Gathered]:
        """Return the values of all processes, by rank."""
        if len(self.places) == 1:
            return [value]
        values: list[Any] = [None] * len(self.places)
        dist.all_gather_object(values, value)
        return values

    def largest(self, value: float) -> float:
        """Return the largest of all values."""
        return max(self.gather(value))

    def on_my_node(self, values: Sequence[Gathered]) -> list[Gathered]:
        """Return the values, one a rank, of the processes on this node."""
        return [
            value for value, place in zip(values, self.places, strict=True) if place.node == self.place.node
        ]

    def members(self, ranks: int, nodes: int) -> list[int]:
        """Return the processes that stand for a run of so many ranks on so many nodes, seated as it is."""
        share = math.ceil(ranks / nodes)
        near = [
            rank for rank, place in enumerate(self.places) if place.node < nodes and place.local_rank < share
        ]
        return near[:ranks]


def median_by(values: Sequence[Gathered], key: Callable[[Gathered], float]) -> Gathered:
    """Return the value in the middle; of an even number the one that is larger by the key."""
    middle = statistics.median_high(key(value) for value in values)
    return next(value for value in values if key(value) == middle)


def repetitions_in(budget_s: float, once_s: float, least: int, most: int) -> int:
    """Return how often something may be done in a time, within bounds."""
    return max(least, min(most, int(budget_s / max(once_s, 1e-9))))
