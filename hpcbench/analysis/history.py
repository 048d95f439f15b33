"""What happened in one run: its attempts, put together to one history.

Only claimed attempts count. Where two of them saw the same step or epoch, the newest did it; a run is
finished when every training rank of its newest attempt says so, whatever a scheduler thinks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

import numpy as np

from hpcbench.analysis.attempts import Attempt, ablations_of, newest_by_epoch, telemetry_of, updates_of
from hpcbench.analysis.warmup import cold_windows
from hpcbench.analysis.windows import LeftBehind, Places, Windows
from hpcbench.config.spec import RunSpec
from hpcbench.runs.events import (
    Check,
    Epoch,
    Evaluation,
    ExchangeAblation,
    Interrupted,
    RunFailed,
    RunFinished,
    RunStarted,
    Telemetry,
    Updates,
)
from hpcbench.runs.rank_records import StepColumns
from hpcbench.runs.results_folder import RunFolder


class State(StrEnum):
    """What became of a run, as far as its records tell."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    UNFINISHED = "unfinished"  # running or lost: only `status`, which asks the scheduler, can tell
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"


@dataclass(frozen=True, kw_only=True)
class History:
    """One repeat of one run. Events of an epoch are one a training rank, all of one attempt."""

    state: State
    reason: str | None = None
    limit: str | None = None
    started: RunStarted | None = None
    starts: tuple[RunStarted, ...] = ()  # of every training rank
    attempts: tuple[int, ...] = ()
    windows: Windows = field(default_factory=Windows)
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

    def kept(self) -> History:
        """Return this without what grows with every step."""
        left: Any = {name: LeftBehind(f"{name} of a run") for name in LARGE}
        return replace(self, **left)


LARGE = ("windows", "telemetry", "updates")
LENGTH_BITS = 32  # of a window, beside its first step in one number


def read_history(folder: RunFolder, spec: RunSpec, run_id: str, claimed: Collection[int]) -> History:
    """Put the claimed attempts of a run together. Raises RecordError where a record file is broken."""
    if not claimed:
        return History(state=State.NOT_STARTED, problems=_unclaimed(folder, claimed))
    attempts, torn, problems = _read_attempts(folder, run_id, claimed)
    newest = attempts[-1]
    state, reason, limit = _state(newest, spec.ranks)
    windows, dropped = _windows(attempts, spec.ranks)
    if dropped:
        problems.append(f"windows left out, because not every training rank wrote them: {dropped}")
    updates = updates_of(attempts)
    # Where servers keep the time of a run, their windows count as they were declared.
    windows = windows if updates else without_cold(windows)
    useful = set(windows.attempts)
    return History(
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
        earlier_s=sum(a.elapsed_s() for a in attempts[:-1] if a.number in useful),
        torn=torn,
        problems=(*problems, *_unclaimed(folder, claimed)),
    )


def _read_attempts(
    folder: RunFolder, run_id: str, claimed: Collection[int]
) -> tuple[list[Attempt], int, list[str]]:
    from hpcbench.runs.rank_records import read_rank  # pyarrow: who shows what was found does without

    attempts = {number: Attempt(number) for number in sorted(claimed)}
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
    return tuple(f"records of attempt {number} left out: nobody claimed it" for number in numbers)


def _state(newest: Attempt, ranks: int) -> tuple[State, str | None, str | None]:
    """Return state, reason and limit from the newest attempt.

    A supervisor has seen which rank fell first; without its word the first that speaks of a failure counts.
    """
    if len({rank for rank, _ in newest.each(RunFinished, training=True)}) >= ranks:
        return State.FINISHED, None, None
    endings = [record for record in newest.supervisors if isinstance(record.event, RunFailed | Interrupted)]
    records = endings or [record for each in newest.ranks.values() for record in each]
    records.sort(key=lambda record: record.time_ns)
    failures = [record.event for record in records if isinstance(record.event, RunFailed)]
    if failures:
        # A limit explains more than its consequences on the other ranks; else the first to fail is the cause.
        cause = next((failure for failure in failures if failure.limit), failures[0])
        return State.FAILED, cause.reason, cause.limit
    stops = [record.event for record in records if isinstance(record.event, Interrupted)]
    if stops:
        return State.INTERRUPTED, stops[0].reason, None
    return State.UNFINISHED, None, None


def _windows(attempts: list[Attempt], ranks: int) -> tuple[Windows, int]:
    """Return each step's newest window, and how many were left out because ranks are missing.

    A rank that was killed may have written fewer windows than its peers: without all of them neither the
    samples nor the slowest rank's time of the window are known.
    """
    kept: list[tuple[int, list[StepColumns]]] = []
    dropped = 0
    horizon: int | None = None  # first step of a newer attempt
    for attempt in reversed(attempts):
        told = list(attempt.windows().values())
        whole, left_out = _whole_windows(told, ranks, horizon)
        dropped += left_out
        if whole:
            kept.append((attempt.number, [each.taken(p) for each, p in zip(told, whole, strict=True)]))
        horizon = min((step for step in (horizon, attempt.first_step()) if step is not None), default=None)
    kept.reverse()
    joined = [StepColumns.joined(parts) for parts in zip(*(each for _, each in kept), strict=True)]
    numbers = np.repeat([number for number, _ in kept], [len(parts[0]) for _, parts in kept]).astype(np.int64)
    return Windows(numbers, tuple(joined), np.zeros(len(numbers), dtype=bool)), dropped


def _whole_windows(told: Sequence[StepColumns], ranks: int, horizon: int | None) -> tuple[list[Places], int]:
    """Return the places of the windows that every rank has once, in the order of steps, rank by rank."""
    keys, places = [], []
    for each in told:
        first, steps = (each.windows[name].astype(np.int64) for name in ("first_step", "steps"))
        early = np.flatnonzero(first + steps <= horizon) if horizon is not None else np.arange(len(first))
        # What a rank wrote twice counts as it wrote it last.
        found, last = np.unique(((first << LENGTH_BITS) + steps)[early][::-1], return_index=True)
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


def without_cold(windows: Windows) -> Windows:
    """Return the windows of a run, those marked that stand before each attempt was warm."""
    step_s = windows.wall_s / windows.steps
    cold = np.zeros(len(windows), dtype=bool)
    for number in np.unique(windows.attempts):
        of_attempt = np.flatnonzero((windows.attempts == number) & windows.declared)
        cold[of_attempt[: cold_windows(step_s[of_attempt].tolist())]] = True
    return replace(windows, cold=cold)
