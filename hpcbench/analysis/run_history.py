"""What happened in one run: the claimed attempts and their records, combined into one history."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, TypeVar

import numpy as np

from hpcbench.analysis.step_windows import DroppedData, RunWindows, WindowIndices, mark_cold_windows
from hpcbench.runs.events import (
    Check,
    Epoch,
    Evaluation,
    Event,
    ExchangeAblation,
    Interrupted,
    RunFailed,
    RunFinished,
    RunStarted,
    Telemetry,
    Updates,
)
from hpcbench.runs.rank_records import StepColumns, read_rank
from hpcbench.runs.record_reader import Record
from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec

EventType = TypeVar("EventType", bound=Event)
EpochEvent = TypeVar("EpochEvent", Evaluation, Epoch, Check)


@dataclass
class AttemptRecords:
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

    def each(self, kind: type[EventType], *, training: bool = False) -> list[tuple[int, EventType]]:
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


def ablations_of(attempts: list[AttemptRecords]) -> tuple[ExchangeAblation, ...]:
    """Return the newest ablation of each training rank."""
    for attempt in reversed(attempts):
        told = dict(attempt.each(ExchangeAblation, training=True))
        if told:
            return tuple(told.values())
    return ()


def telemetry_of(attempts: list[AttemptRecords], useful: Collection[int]) -> tuple[Telemetry, ...]:
    """Return what supervisors saw of their nodes while steps were done that count."""
    records = (record.event for a in attempts if a.number in useful for record in a.supervisors)
    return tuple(event for event in records if isinstance(event, Telemetry))


def updates_of(attempts: list[AttemptRecords]) -> tuple[Updates, ...]:
    """Return what the first server of a run has applied, each epoch as its newest attempt saw it."""
    found: list[Updates] = []
    horizon: int | None = None  # first epoch of a newer attempt
    for attempt in reversed(attempts):
        told = attempt.each(Updates)
        first = min((rank for rank, _ in told), default=None)
        found += [e for rank, e in told if rank == first and (horizon is None or e.epoch < horizon)]
        horizon = min((e for e in (horizon, attempt.first_epoch()) if e is not None), default=None)
    return tuple(sorted(found, key=lambda event: event.first_step))


def newest_by_epoch(
    attempts: list[AttemptRecords], kind: type[EpochEvent], ranks: int
) -> dict[int, tuple[EpochEvent, ...]]:
    """Return the events of each epoch from the newest attempt that trained it, where no rank's is missing."""
    found: dict[int, tuple[EpochEvent, ...]] = {}
    horizon: int | None = None  # first epoch of a newer attempt
    for attempt in reversed(attempts):
        by_epoch: dict[int, list[EpochEvent]] = defaultdict(list)
        for _, event in attempt.each(kind, training=True):
            if horizon is None or event.epoch < horizon:
                by_epoch[event.epoch].append(event)
        found |= {epoch: tuple(events) for epoch, events in by_epoch.items() if len(events) == ranks}
        horizon = min((e for e in (horizon, attempt.first_epoch()) if e is not None), default=None)
    return dict(sorted(found.items()))


class RecordedState(StrEnum):
    """How a run ended, according to its records."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    UNFINISHED = "unfinished"  # running or lost: only `status`, which asks the scheduler, can tell
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class RunHistory:
    """One repeat of one run. Events of an epoch are one a training rank, all of one attempt."""

    state: RecordedState
    reason: str | None = None
    limit: str | None = None
    started: RunStarted | None = None
    starts: tuple[RunStarted, ...] = ()  # of every training rank
    attempts: tuple[int, ...] = ()
    windows: RunWindows = field(default_factory=RunWindows)
    evaluations: Mapping[int, tuple[Evaluation, ...]] = field(default_factory=dict)
    epochs: Mapping[int, tuple[Epoch, ...]] = field(default_factory=dict)
    checks: Mapping[int, tuple[Check, ...]] = field(default_factory=dict)  # epoch 0: before the first step
    finished: tuple[RunFinished, ...] = ()
    ablations: tuple[ExchangeAblation, ...] = ()  # one a training rank, of the newest attempt that made any
    telemetry: Sequence[Telemetry] = ()  # of every node and attempt that counts
    updates: Sequence[Updates] = ()  # of one parameter server: each applies every update to its own part
    earlier_s: float = 0.0  # spent in earlier attempts whose steps count
    torn: int = 0
    problems: tuple[str, ...] = ()

    def kept(self) -> RunHistory:
        """Return this without what grows with every step."""
        left: Any = {name: DroppedData(f"{name} of a run") for name in LARGE_FIELDS}
        return replace(self, **left)


LARGE_FIELDS = ("windows", "telemetry", "updates")
WINDOW_LENGTH_BITS = 32  # of a window, beside its first step in one number


def read_history(folder: RunFolder, spec: RunSpec, run_id: str, claimed: Collection[int]) -> RunHistory:
    """Put the claimed attempts of a run together. Raises RecordError where a record file is broken."""
    if not claimed:
        return RunHistory(state=RecordedState.NOT_STARTED, problems=_unclaimed(folder, claimed))
    attempts, torn, problems = _read_attempts(folder, run_id, claimed)
    newest = attempts[-1]
    state, reason, limit = _recorded_state(newest, spec.ranks)
    windows, dropped = _newest_windows(attempts, spec.ranks)
    if dropped:
        problems.append(f"windows left out, because not every training rank wrote them: {dropped}")
    updates = updates_of(attempts)
    # Where servers keep the time of a run, their windows count as they were declared.
    windows = windows if updates else mark_cold_windows(windows)
    useful = set(windows.attempts)
    return RunHistory(
        state=state,
        reason=reason,
        limit=limit,
        started=next((started for _, started in newest.each(RunStarted, training=True)), None),
        starts=tuple(started for _, started in newest.each(RunStarted, training=True)),
        attempts=tuple(attempt.number for attempt in attempts),
        windows=windows,
        evaluations=newest_by_epoch(attempts, Evaluation, spec.ranks),
        epochs=newest_by_epoch(attempts, Epoch, spec.ranks),
        checks=newest_by_epoch(attempts, Check, spec.ranks),
        finished=tuple(event for _, event in newest.each(RunFinished, training=True)),
        ablations=ablations_of(attempts),
        telemetry=telemetry_of(attempts, useful),
        updates=updates,
        earlier_s=sum((a.elapsed_s() for a in attempts[:-1] if a.number in useful), 0.0),
        torn=torn,
        problems=(*problems, *_unclaimed(folder, claimed)),
    )


def _read_attempts(
    folder: RunFolder, run_id: str, claimed: Collection[int]
) -> tuple[list[AttemptRecords], int, list[str]]:
    attempts = {number: AttemptRecords(number) for number in sorted(claimed)}
    torn, foreign = 0, set()
    for file in folder.event_files():
        if file.attempt not in attempts:
            continue
        reading = read_rank(file.path, run_id)
        torn += reading.torn
        if reading.foreign:
            foreign.add(file.path.name)
        attempt = attempts[file.attempt]
        if file.rank is None:
            attempt.supervisors += reading.records
        else:
            attempt.ranks[file.rank] = reading.records
            attempt.steps[file.rank] = reading.steps
            attempt.last_ns[file.rank] = reading.last_ns
    problems = [f"{name}: records of another run left out" for name in sorted(foreign)]
    if torn:
        problems.append(f"last lines that were cut off, and dropped: {torn}")
    return list(attempts.values()), torn, problems


def _unclaimed(folder: RunFolder, claimed: Collection[int]) -> tuple[str, ...]:
    numbers = sorted({file.attempt for file in folder.event_files()} - set(claimed))
    return tuple(f"records of attempt {number} left out: it was never claimed" for number in numbers)


def _recorded_state(newest: AttemptRecords, ranks: int) -> tuple[RecordedState, str | None, str | None]:
    """Return state, reason and limit from the newest attempt.

    A supervisor has seen which rank fell first; without its word the first that speaks of a failure counts.
    """
    if len({rank for rank, _ in newest.each(RunFinished, training=True)}) >= ranks:
        return RecordedState.FINISHED, None, None
    endings = [record for record in newest.supervisors if isinstance(record.event, RunFailed | Interrupted)]
    records = endings or [record for each in newest.ranks.values() for record in each]
    records.sort(key=lambda record: record.time_ns)
    failures = [record.event for record in records if isinstance(record.event, RunFailed)]
    if failures:
        # A limit explains more than its consequences on the other ranks; else the first to fail is the cause.
        cause = next((failure for failure in failures if failure.limit), failures[0])
        return RecordedState.FAILED, cause.reason, cause.limit
    stops = [record.event for record in records if isinstance(record.event, Interrupted)]
    if stops:
        return RecordedState.INTERRUPTED, stops[0].reason, None
    return RecordedState.UNFINISHED, None, None


def _newest_windows(attempts: list[AttemptRecords], ranks: int) -> tuple[RunWindows, int]:
    """Return each step's newest window, and how many were left out because ranks are missing.

    A rank that was killed may have written fewer windows than its peers: without all of them neither the
    samples nor the slowest rank's time of the window are known.
    """
    kept: list[tuple[int, list[StepColumns]]] = []
    dropped = 0
    horizon: int | None = None  # first step of a newer attempt
    for attempt in reversed(attempts):
        told = list(attempt.windows().values())
        whole, left_out = _complete_windows(told, ranks, horizon)
        dropped += left_out
        if whole:
            kept.append((attempt.number, [each.taken(p) for each, p in zip(told, whole, strict=True)]))
        horizon = min((step for step in (horizon, attempt.first_step()) if step is not None), default=None)
    kept.reverse()
    joined = [StepColumns.joined(parts) for parts in zip(*(each for _, each in kept), strict=True)]
    numbers = np.repeat([number for number, _ in kept], [len(parts[0]) for _, parts in kept]).astype(np.int64)
    return RunWindows(numbers, tuple(joined), np.zeros(len(numbers), dtype=bool)), dropped


def _complete_windows(
    told: Sequence[StepColumns], ranks: int, horizon: int | None
) -> tuple[list[WindowIndices], int]:
    """Return the places of the windows that every rank has once, in the order of steps, rank by rank."""
    keys, places = [], []
    for each in told:
        first, steps = (each.windows[name].astype(np.int64) for name in ("first_step", "steps"))
        early = np.flatnonzero(first + steps <= horizon) if horizon is not None else np.arange(len(first))
        # What a rank wrote twice counts as it wrote it last.
        found, last = np.unique(((first << WINDOW_LENGTH_BITS) + steps)[early][::-1], return_index=True)
        keys.append(found)
        places.append(early[::-1][last])
    distinct, counts = np.unique(np.concatenate([np.empty(0, np.int64), *keys]), return_counts=True)
    whole = distinct[counts == ranks] if len(told) == ranks else distinct[:0]
    if not len(whole):
        return [], len(distinct)
    return (
        [place[np.searchsorted(found, whole)] for found, place in zip(keys, places, strict=True)],
        len(distinct) - len(whole),
    )
