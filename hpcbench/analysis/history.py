"""What happened in one run: its attempts, put together to one history.

Only claimed attempts count. Where two of them saw the same step or epoch, the newest did it; a run is
finished when every training rank of its newest attempt says so, whatever a scheduler thinks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from itertools import groupby
from pathlib import Path

from hpcbench.analysis.attempts import Attempt, ablations_of, newest_by_epoch, telemetry_of, updates_of
from hpcbench.analysis.warmup import cold_windows
from hpcbench.config.spec import RunSpec
from hpcbench.errors import RecordError
from hpcbench.records.events import (
    Check,
    Epoch,
    Evaluation,
    ExchangeAblation,
    Interrupted,
    RunFailed,
    RunFinished,
    RunStarted,
    Steps,
    Telemetry,
    Updates,
)
from hpcbench.records.layout import RunFolder
from hpcbench.records.reader import Record, read_events


class State(StrEnum):
    """What became of a run, as far as its records tell."""

    FINISHED = "finished"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    UNFINISHED = "unfinished"  # running or lost: only `status`, which asks the scheduler, can tell
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"


@dataclass(frozen=True)
class Window:
    """A window of steps, with what each training rank wrote about it.

    `cold`: it was declared to count, and what came after it shows that the run was not warm yet.
    """

    attempt: int
    parts: tuple[Steps, ...]
    cold: bool = False

    @property
    def first_step(self) -> int:
        """The first step of the window, counted over the whole run."""
        return self.parts[0].first_step

    @property
    def steps(self) -> int:
        """How many steps the window has."""
        return self.parts[0].steps

    @property
    def counted(self) -> bool:
        """Whether the window counts for speed: no rank was still warming up."""
        return not self.cold and all(part.counted for part in self.parts)

    @property
    def samples(self) -> int:
        """Samples consumed by all training ranks."""
        return sum(part.samples for part in self.parts)

    @property
    def wall_s(self) -> float:
        """Time of the slowest rank: the barriers at both ends make it everybody's."""
        return max(part.wall_s for part in self.parts)


@dataclass(frozen=True, kw_only=True)
class History:
    """One repeat of one run. Events of an epoch are one a training rank, all of one attempt."""

    state: State
    reason: str | None = None
    limit: str | None = None
    started: RunStarted | None = None
    starts: tuple[RunStarted, ...] = ()  # of every training rank
    attempts: tuple[int, ...] = ()
    windows: tuple[Window, ...] = ()
    evaluations: Mapping[int, tuple[Evaluation, ...]] = field(default_factory=dict)
    epochs: Mapping[int, tuple[Epoch, ...]] = field(default_factory=dict)
    checks: Mapping[int, tuple[Check, ...]] = field(default_factory=dict)  # epoch 0: before the first step
    finished: tuple[RunFinished, ...] = ()
    ablations: tuple[ExchangeAblation, ...] = ()  # one a training rank, of the newest attempt that made any
    telemetry: tuple[Telemetry, ...] = ()  # of every node and attempt that counts
    updates: tuple[Updates, ...] = ()  # of one parameter server: each applies every update to its own part
    earlier_s: float = 0.0  # spent in earlier attempts whose steps count
    torn: int = 0
    problems: tuple[str, ...] = ()


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
    useful = {window.attempt for window in windows}
    return History(
        state=state,
        reason=reason,
        limit=limit,
        started=next((started for _, started in newest.each(RunStarted, training=True)), None),
        starts=tuple(started for _, started in newest.each(RunStarted, training=True)),
        attempts=tuple(attempt.number for attempt in attempts),
        windows=tuple(windows),
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
    attempts = {number: Attempt(number) for number in sorted(claimed)}
    torn, foreign = 0, set()
    for file in folder.event_files():
        if file.attempt not in attempts:
            continue
        reading = read_events(file.path)
        torn += reading.torn
        _check_lists(file.path, reading.records)
        records = [record for record in reading.records if record.run_id == run_id]
        if len(records) < len(reading.records):
            foreign.add(file.path.name)
        if file.rank is None:
            attempts[file.attempt].supervisors += records
        else:
            attempts[file.attempt].ranks[file.rank] += records
    problems = [f"{name}: records of another run left out" for name in sorted(foreign)]
    if torn:
        problems.append(f"last lines that were cut off, and dropped: {torn}")
    return list(attempts.values()), torn, problems


def _check_lists(path: Path, records: Iterable[Record]) -> None:
    """Raise RecordError where a window does not have one loss and one count for each of its steps."""
    for steps in (record.event for record in records if isinstance(record.event, Steps)):
        for name in ("loss_sum", "correct"):
            entries = getattr(steps, name)
            if entries is None:
                continue
            if len(entries) != steps.steps or not all(isinstance(e, int | float | None) for e in entries):
                raise RecordError(
                    f"{path}: window from step {steps.first_step}: {name} should hold {steps.steps} numbers"
                )


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


def _windows(attempts: list[Attempt], ranks: int) -> tuple[list[Window], int]:
    """Return each step's newest window, and how many were left out because ranks are missing.

    A rank that was killed may have written fewer windows than its peers: without all of them neither the
    samples nor the slowest rank's time of the window are known.
    """
    kept: list[Window] = []
    dropped = 0
    horizon: int | None = None  # first step of a newer attempt
    for attempt in reversed(attempts):
        parts: dict[tuple[int, int], list[Steps]] = defaultdict(list)
        for _, steps in attempt.each(Steps, training=True):
            if horizon is None or steps.first_step + steps.steps <= horizon:
                parts[steps.first_step, steps.steps].append(steps)
        whole = [Window(attempt.number, tuple(each)) for each in parts.values() if len(each) == ranks]
        dropped += len(parts) - len(whole)
        kept += whole
        horizon = min((step for step in (horizon, attempt.first_step()) if step is not None), default=None)
    kept.sort(key=lambda window: window.first_step)
    return kept, dropped


def without_cold(windows: list[Window]) -> list[Window]:
    """Return the windows of a run, those marked that stand before each attempt was warm."""
    found = []
    for _, group in groupby(windows, key=lambda window: window.attempt):
        of_attempt = list(group)
        declared = [window for window in of_attempt if window.counted]
        number = cold_windows([window.wall_s / window.steps for window in declared])
        cold = {window.first_step for window in declared[:number]}
        found += [replace(each, cold=True) if each.first_step in cold else each for each in of_attempt]
    return found
