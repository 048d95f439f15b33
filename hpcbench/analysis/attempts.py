"""The records of one attempt at a run, and what is taken from several: of each thing the newest."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TypeVar

from hpcbench.runs.events import (
    Check,
    Epoch,
    Evaluation,
    Event,
    ExchangeAblation,
    RunStarted,
    Telemetry,
    Updates,
)
from hpcbench.runs.rank_records import StepColumns
from hpcbench.runs.record_reader import Record

E = TypeVar("E", bound=Event)
S = TypeVar("S", Evaluation, Epoch, Check)


@dataclass
class Attempt:
    """The records of one attempt; of ranks the windows apart from the others."""

    number: int
    ranks: dict[int, list[Record]] = field(default_factory=dict)
    steps: dict[int, StepColumns] = field(default_factory=dict)
    last_ns: dict[int, int] = field(default_factory=dict)  # time of each rank's last line
    supervisors: list[Record] = field(default_factory=list)

    def training(self) -> dict[int, list[Record]]:
        """Return the records of the ranks that train; servers say `role: serve` when they start."""
        served = {r for r, started in self.each(RunStarted) if started.role != "train"}
        return {rank: records for rank, records in sorted(self.ranks.items()) if rank not in served}

    def each(self, kind: type[E], *, training: bool = False) -> list[tuple[int, E]]:
        """Return (rank, event) of all events of a kind that ranks wrote, rank by rank."""
        ranks = self.training() if training else dict(sorted(self.ranks.items()))
        return [
            (rank, record.event)
            for rank, records in ranks.items()
            for record in records
            if isinstance(record.event, kind)
        ]

    def windows(self) -> dict[int, StepColumns]:
        """Return the windows of the ranks that train."""
        return {rank: self.steps[rank] for rank in self.training()}

    def first_step(self) -> int | None:
        """Return the first step that this attempt did."""
        return self._first("first_step")

    def first_epoch(self) -> int | None:
        """Return the first epoch that this attempt trained in."""
        return self._first("epoch")

    def _first(self, name: str) -> int | None:
        return min(
            (int(steps.windows[name].min()) for steps in self.windows().values() if len(steps)), default=None
        )

    def elapsed_s(self) -> float:
        """Return the time from the start of the first process to the last line of any training rank."""
        starts = [started.process_start_ns for _, started in self.each(RunStarted, training=True)]
        ends = [self.last_ns[rank] for rank in self.training() if self.last_ns[rank]]
        return max(0.0, (max(ends) - min(starts)) / 1e9) if starts and ends else 0.0


def ablations_of(attempts: list[Attempt]) -> tuple[ExchangeAblation, ...]:
    """Return the newest ablation of each training rank."""
    for attempt in reversed(attempts):
        told = dict(attempt.each(ExchangeAblation, training=True))
        if told:
            return tuple(told.values())
    return ()


def telemetry_of(attempts: list[Attempt], useful: Collection[int]) -> tuple[Telemetry, ...]:
    """Return what supervisors saw of their nodes while steps were done that count."""
    records = (record.event for a in attempts if a.number in useful for record in a.supervisors)
    return tuple(event for event in records if isinstance(event, Telemetry))


def updates_of(attempts: list[Attempt]) -> tuple[Updates, ...]:
    """Return what the first server of a run has applied, each epoch as its newest attempt saw it."""
    found: list[Updates] = []
    horizon: int | None = None  # first epoch of a newer attempt
    for attempt in reversed(attempts):
        told = attempt.each(Updates)
        first = min((rank for rank, _ in told), default=None)
        found += [e for rank, e in told if rank == first and (horizon is None or e.epoch < horizon)]
        horizon = min((e for e in (horizon, attempt.first_epoch()) if e is not None), default=None)
    return tuple(sorted(found, key=lambda event: event.first_step))


def newest_by_epoch(attempts: list[Attempt], kind: type[S], ranks: int) -> dict[int, tuple[S, ...]]:
    """Return the events of each epoch from the newest attempt that trained it, where no rank's is missing."""
    found: dict[int, tuple[S, ...]] = {}
    horizon: int | None = None  # first epoch of a newer attempt
    for attempt in reversed(attempts):
        by_epoch: dict[int, list[S]] = defaultdict(list)
        for _, event in attempt.each(kind, training=True):
            if horizon is None or event.epoch < horizon:
                by_epoch[event.epoch].append(event)
        found |= {epoch: tuple(events) for epoch, events in by_epoch.items() if len(events) == ranks}
        horizon = min((e for e in (horizon, attempt.first_epoch()) if e is not None), default=None)
    return dict(sorted(found.items()))
