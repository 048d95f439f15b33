"""State and progress of every run of a results folder, derived from its records and from whether its owner
is alive.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hpcbench.errors import InputError
from hpcbench.launch.jobs import Job, Jobs, LivingJobs, read_jobs
from hpcbench.runs.claim import SILENT_AFTER_S, Claim, latest_claim, read_claim
from hpcbench.runs.events import Interrupted, RunFailed, RunStarted, Steps
from hpcbench.runs.ledger import run_key
from hpcbench.runs.record_reader import RecordLine, first_line, is_finished, last_lines, last_log_lines
from hpcbench.runs.results_folder import FIRST_NODE, ResultsFolder, RunFolder
from hpcbench.runs.spec_file import read_spec_json


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """`rate_samples_s` is that of the last window of each rank, `eta_s` counts evaluation in."""

    step: int
    steps: int | None
    epoch: int
    epochs: int | None
    rate_samples_s: float | None = None
    eta_s: float | None = None


def read_progress(folder: RunFolder, attempt: int, spec: dict[str, Any]) -> RunProgress | None:
    """Return how far a run is; None while its ranks are still starting."""
    began = first_line(folder.events(attempt, 0))
    if began is None or began["event"] != RunStarted.kind:
        return None
    steps, per_epoch = began.get("total_steps"), began.get("steps_per_epoch")
    epochs = -(-steps // per_epoch) if steps and per_epoch else None
    windows = [_last_window(folder, attempt, rank) for rank in range(spec["ranks"])]
    if windows[0] is None:
        return RunProgress(step=0, steps=steps, epoch=0, epochs=epochs)
    done = windows[0]["first_step"] + windows[0]["steps"]
    return RunProgress(
        step=done,
        steps=steps,
        epoch=windows[0]["epoch"],
        epochs=epochs,
        rate_samples_s=_samples_per_s(windows),
        eta_s=_eta_s(began, windows[0], done, steps),
    )


def _last_window(folder: RunFolder, attempt: int, rank: int) -> RecordLine | None:
    lines = last_lines(folder.events(attempt, rank))
    return next((line for line in reversed(lines) if line["event"] == Steps.kind), None)


def _samples_per_s(windows: list[RecordLine | None]) -> float | None:
    rates = [window["samples"] / window["wall_s"] for window in windows if window and window["wall_s"]]
    return sum(rates) if rates else None


def _eta_s(began: RecordLine, window: RecordLine, done: int, steps: int | None) -> float | None:
    """Project the pace since the start, evaluations included, onto the steps that are left."""
    if not steps or not done:
        return None
    pace_s: float = (window["time_ns"] - began["time_ns"]) / 1e9 / done
    since_s: float = time.time() - window["time_ns"] / 1e9
    return max(0.0, pace_s * (steps - done) - since_s)


# What a supervisor or a rank says of how an attempt ended, if it did not finish.
ENDING_EVENTS = (RunFailed.kind, Interrupted.kind)

RunState = Literal["pending", "running", "done", "failed", "interrupted", "lost", "cancelled"]
RUN_STATES: tuple[RunState, ...] = (
    "pending",
    "running",
    "done",
    "failed",
    "interrupted",
    "lost",
    "cancelled",
)
BAD_STATES: tuple[RunState, ...] = ("failed", "lost")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What is known of one repeat of a run. `limit` is a result ("memory"), and such a run is done."""

    name: str
    repeat: int
    run_id: str
    strategy: str
    ranks: int
    state: RunState
    reason: str = ""
    job_id: str | None = None
    queued: bool = False  # a living job will do it
    attempt: int | None = None
    wall_s: float | None = None
    limit: str | None = None
    failed_rank: int | None = None
    last_lines: list[str] = field(default_factory=list)
    progress: RunProgress | None = None

    @property
    def key(self) -> str:
        """How the ledger names it."""
        return run_key(self.name, self.repeat)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def open_results_folder(path: str) -> ResultsFolder:
    """Return the results folder of a sweep; raises InputError for a folder that is none."""
    results = ResultsFolder(Path(path).absolute())
    if not results.path.is_dir():
        raise InputError(f"{path}: there is no such folder")
    if results.ledger.exists() or (results.path / "runs").is_dir():
        return results
    inside = sorted(found.parent.name for found in results.path.glob("*/ledger.jsonl"))
    hint = f". Did you mean {Path(path) / inside[0]}?" if inside else ""
    raise InputError(f"{path}: this is no results folder: it has neither runs nor a ledger{hint}")


def read_status(results: ResultsFolder, jobs: Jobs | None = None) -> list[RunStatus]:
    """Return the status of each run that has a folder, by name and repeat.

    `jobs` are those of the folder, for who wants to know more about them without asking a scheduler twice.
    """
    jobs = read_jobs(results) if jobs is None else jobs
    living = LivingJobs(jobs)
    return [
        run_status(name, repeat, folder, jobs, living)
        for name, repeat, folder in results.runs()
        if folder.spec.exists()
    ]


def run_status(name: str, repeat: int, folder: RunFolder, jobs: Jobs, living: Sequence[Job]) -> RunStatus:
    """Return the status of a run; `jobs` are all of its sweep, `living` those of them that live."""
    raw = read_spec_json(folder)
    spec = raw["spec"]
    known = RunStatus(
        name=name,
        repeat=repeat,
        run_id=raw["run_id"],
        strategy=spec["strategy"],
        ranks=spec["ranks"],
        state="pending",
    )
    claim = latest_claim(folder)
    if claim is not None:
        known = replace(known, attempt=claim.attempt, job_id=claim.job_id, wall_s=_wall_s(claim))
        if is_finished(folder, claim.attempt, spec["ranks"] + spec["servers"]):
            # Its owner may still be about to say so.
            return replace(known, state="done", wall_s=known.wall_s or _seconds_to_last_record(folder, claim))
    mine = jobs.of(known.key)
    planned = [job for job in mine if job in living]
    if claim is None:
        return _status_before_claim(known, mine, planned[0] if planned else None)
    alive = _owner_works(claim, mine)
    if alive or (alive is None and claim.silent_s() < SILENT_AFTER_S):
        return replace(known, state="running", progress=read_progress(folder, claim.attempt, spec))
    queued_in = _job_to_continue(folder, claim, planned)
    ended = _status_of_ending(known, folder, claim)
    if queued_in:
        return _requeued(ended, queued_in)
    return _with_scheduler_reason(ended, mine) if ended.state == "lost" else ended


def _owner_works(claim: Claim, jobs: Sequence[Job]) -> bool | None:
    """Return whether the owner of a claim works at it; None where neither machine nor scheduler knows."""
    alive = claim.owner_alive()
    if alive is not None:
        return alive
    job = next((job for job in jobs if job.job_id == claim.job_id), None)
    return job.works_at(claim) if job else None


def _job_to_continue(folder: RunFolder, claim: Claim, planned: list[Job]) -> Job | None:
    """Return the living job that has this run before it, if there is one.

    A job that has begun it does it again only if it was put back into the queue in the meantime.
    """
    begun = {read_claim(folder, attempt).job_id for attempt in folder.attempts()}
    failed = claim.ending is not None and claim.ending.state == "failed"
    return next(
        (job for job in planned if job.job_id not in begun or (not failed and job.comes_back(claim))), None
    )


def _with_scheduler_reason(lost: RunStatus, jobs: Sequence[Job]) -> RunStatus:
    job = next((job for job in jobs if job.job_id == lost.job_id), None)
    words = job.last_words() if job else ""
    return replace(lost, reason=f"{lost.reason} ({words})") if words else lost


def _status_before_claim(known: RunStatus, jobs: Sequence[Job], queued_in: Job | None) -> RunStatus:
    if queued_in:
        return replace(known, queued=True, reason=queued_in.waits(), job_id=queued_in.job_id)
    if not jobs:
        return replace(known, reason="not submitted")
    known = replace(known, job_id=jobs[-1].job_id)
    if jobs[-1].cancelled:
        return replace(known, state="cancelled", reason="cancelled before it began")
    return replace(known, state="lost", reason=jobs[-1].how_it_never_came())


def _requeued(ended: RunStatus, job: Job) -> RunStatus:
    reason = f"{job.waits()}, again; attempt {ended.attempt} {ended.state}: {ended.reason}"
    return replace(ended, state="pending", queued=True, reason=reason, job_id=job.job_id, last_lines=[])


def _status_of_ending(known: RunStatus, folder: RunFolder, claim: Claim) -> RunStatus:
    """Complete what is known of an attempt that is over: the supervisor's word before that of a rank."""
    said = last_lines(folder.supervisor_events(claim.attempt, FIRST_NODE))
    words = [line for line in said if line["event"] in ENDING_EVENTS] or _rank_endings(folder, claim)
    failed = next((line for line in words if line["event"] == RunFailed.kind), None)
    stopped = next((line for line in words if line["event"] == Interrupted.kind), None)
    if failed:
        return _status_of_failure(known, folder, claim, failed)
    if stopped:
        return replace(known, state="interrupted", reason=stopped["reason"])
    if claim.ending and claim.ending.state == "interrupted":
        return replace(known, state="interrupted", reason=claim.ending.reason)
    printed = last_log_lines(folder.log(claim.attempt, 0))
    if claim.ending and claim.ending.state == "failed":
        return replace(known, state="failed", reason=claim.ending.reason, last_lines=printed)
    owner = f"process {claim.owner.pid} of {claim.owner.host}"
    reason = f"{owner} died without a word"
    if claim.owner_alive() is None:
        reason = f"no sign of life from {owner} for {claim.silent_s():.0f} s; retry --lost takes it over"
    return replace(known, state="lost", reason=reason, last_lines=printed)


def _status_of_failure(known: RunStatus, folder: RunFolder, claim: Claim, line: RecordLine) -> RunStatus:
    """Out of memory is a result of the run, not a failure of the sweep (DESIGN, section 4)."""
    rank = line.get("failed_rank")
    return replace(
        known,
        state="done" if line.get("limit") else "failed",
        limit=line.get("limit"),
        # The claim knows more where the record itself could not be written.
        reason=claim.ending.reason if claim.ending and claim.ending.reason else line["reason"],
        failed_rank=rank,
        last_lines=line.get("last_lines") or last_log_lines(folder.log(claim.attempt, rank or 0)),
    )


def _rank_endings(folder: RunFolder, claim: Claim) -> list[RecordLine]:
    """Return the failures and interruptions that ranks wrote themselves, the earliest first."""
    files = [file for file in folder.event_files() if file.attempt == claim.attempt]
    words = (line for file in files for line in last_lines(file.path))
    return sorted(
        (line for line in words if line["event"] in ENDING_EVENTS), key=lambda line: line["time_ns"]
    )


def _wall_s(claim: Claim) -> float | None:
    return (claim.ending.time_ns - claim.time_ns) / 1e9 if claim.ending and claim.ending.time_ns else None


def _seconds_to_last_record(folder: RunFolder, claim: Claim) -> float:
    words = last_lines(folder.events(claim.attempt, 0))
    return (int(words[-1]["time_ns"]) - claim.time_ns) / 1e9


def count_states(runs: Sequence[RunStatus]) -> dict[str, int]:
    """Count the runs by state."""
    return {state: sum(run.state == state for run in runs) for state in RUN_STATES}
