"""State and progress of every run of a results folder, derived from its records and from whether its owner
is alive.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from hpcbench.runs.claim import SILENT_AFTER_S, Claim, latest_claim, read_claim
from hpcbench.runs.events import Interrupted, RunFailed, RunStarted, Steps
from hpcbench.runs.jobs import AskScheduler, Job, Jobs, LivingJobs, read_jobs
from hpcbench.runs.ledger import run_key
from hpcbench.runs.record_reader import RecordLine, first_line, is_finished, last_lines, last_log_lines
from hpcbench.runs.results_folder import FIRST_NODE, ResultsFolder, RunFolder, read_spec_json


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


# The events of a supervisor or a rank about an attempt that did not finish.
ENDING_EVENTS = (RunFailed.kind, Interrupted.kind)

RunState = Literal["pending", "running", "done", "failed", "interrupted", "lost", "cancelled"]
RUN_STATES: tuple[RunState, ...] = get_args(RunState)
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

    @property
    def is_busy(self) -> bool:
        """Whether a job does it, or will do it."""
        return self.queued or self.state == "running"

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def read_status(results: ResultsFolder, ask_scheduler: AskScheduler) -> list[RunStatus]:
    """Return the status of each run that has a folder, by name and repeat."""
    return status_of_runs(results, read_jobs(results, ask_scheduler))


def status_of_runs(results: ResultsFolder, jobs: Jobs) -> list[RunStatus]:
    """Return the status of each run that has a folder; `jobs` are all of the results folder."""
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
            # Its owner may still be about to record that.
            return replace(known, state="done", wall_s=known.wall_s or _seconds_to_last_record(folder, claim))
    own_jobs = jobs.for_run(known.key)
    planned = [job for job in own_jobs if job in living]
    if claim is None:
        return _status_before_claim(known, own_jobs, planned[0] if planned else None)
    alive = _owner_works(claim, own_jobs)
    if alive or (alive is None and claim.heartbeat_age_s() < SILENT_AFTER_S):
        return replace(known, state="running", progress=read_progress(folder, claim.attempt, spec))
    queued_in = _job_to_continue(folder, claim, planned)
    ended = _status_of_ending(known, folder, claim)
    if queued_in:
        return _requeued(ended, queued_in)
    return _with_scheduler_reason(ended, own_jobs) if ended.state == "lost" else ended


def _owner_works(claim: Claim, jobs: Sequence[Job]) -> bool | None:
    """Return whether the owner of a claim works at it; None where neither machine nor scheduler knows."""
    alive = claim.owner_alive()
    if alive is not None:
        return alive
    job = next((job for job in jobs if job.job_id == claim.job_id), None)
    return job.is_working_on(claim) if job else None


def _job_to_continue(folder: RunFolder, claim: Claim, planned: list[Job]) -> Job | None:
    """Return the living job that has this run before it, if there is one.

    A job that has begun it does it again only if it was put back into the queue in the meantime.
    """
    begun = {read_claim(folder, attempt).job_id for attempt in folder.attempts()}
    failed = claim.ending is not None and claim.ending.state == "failed"
    return next(
        (job for job in planned if job.job_id not in begun or (not failed and job.is_requeued_since(claim))),
        None,
    )


def _with_scheduler_reason(lost: RunStatus, jobs: Sequence[Job]) -> RunStatus:
    job = next((job for job in jobs if job.job_id == lost.job_id), None)
    ending = job.scheduler_ending() if job else ""
    return replace(lost, reason=f"{lost.reason} ({ending})") if ending else lost


def _status_before_claim(known: RunStatus, jobs: Sequence[Job], queued_in: Job | None) -> RunStatus:
    if queued_in:
        return replace(known, queued=True, reason=queued_in.waiting_reason(), job_id=queued_in.job_id)
    if not jobs:
        return replace(known, reason="not submitted")
    known = replace(known, job_id=jobs[-1].job_id)
    if jobs[-1].cancelled:
        return replace(known, state="cancelled", reason="cancelled before it began")
    return replace(known, state="lost", reason=jobs[-1].reason_never_started())


def _requeued(ended: RunStatus, job: Job) -> RunStatus:
    reason = f"{job.waiting_reason()}, again; attempt {ended.attempt} {ended.state}: {ended.reason}"
    return replace(ended, state="pending", queued=True, reason=reason, job_id=job.job_id, last_lines=[])


def _status_of_ending(known: RunStatus, folder: RunFolder, claim: Claim) -> RunStatus:
    """Complete what is known of an attempt that is over: the supervisor's record before that of a rank."""
    written = last_lines(folder.supervisor_events(claim.attempt, FIRST_NODE))
    endings = [line for line in written if line["event"] in ENDING_EVENTS] or _rank_endings(folder, claim)
    failed = next((line for line in endings if line["event"] == RunFailed.kind), None)
    stopped = next((line for line in endings if line["event"] == Interrupted.kind), None)
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
    reason = f"{owner} ended without a record"
    if claim.owner_alive() is None:
        reason = f"no heartbeat of {owner} for {claim.heartbeat_age_s():.0f} s; retry --lost takes it over"
    return replace(known, state="lost", reason=reason, last_lines=printed)


def _status_of_failure(known: RunStatus, folder: RunFolder, claim: Claim, line: RecordLine) -> RunStatus:
    """Out of memory is a result of the run, not a failure of the sweep (docs/running.md)."""
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
    lines = (line for file in files for line in last_lines(file.path))
    return sorted(
        (line for line in lines if line["event"] in ENDING_EVENTS), key=lambda line: line["time_ns"]
    )


def _wall_s(claim: Claim) -> float | None:
    return (claim.ending.time_ns - claim.time_ns) / 1e9 if claim.ending and claim.ending.time_ns else None


def _seconds_to_last_record(folder: RunFolder, claim: Claim) -> float:
    lines = last_lines(folder.events(claim.attempt, 0))
    return (int(lines[-1]["time_ns"]) - claim.time_ns) / 1e9


def removable_files(results: ResultsFolder, jobs: Jobs, runs: Sequence[RunStatus]) -> list[Path]:
    """List what no later command needs: folders of jobs that are over, files of earlier attempts."""
    living = {job.folder.path.name for job in jobs if job.alive()}
    folders = (folder for folder in results.jobs.glob("*") if folder.is_dir())
    removable = [folder for folder in folders if folder.name not in living]
    for run in runs:
        if not run.is_busy:
            removable += _removable_run_files(results, run)
    return removable


def _removable_run_files(results: ResultsFolder, run: RunStatus) -> list[Path]:
    folder = results.run(run.name, run.repeat)
    older = folder.attempts()[:-1]
    logs = [log for attempt in older for log in folder.logs.glob(f"a{attempt}.*.log")]
    meetings = [folder.rendezvous(attempt) for attempt in older if folder.rendezvous(attempt).exists()]
    # A run that is not done may go on from its checkpoint.
    done = [folder.checkpoint] if run.state == "done" and folder.checkpoint.is_dir() else []
    return [*logs, *meetings, *done]


def remove_files(paths: Sequence[Path]) -> int:
    """Remove files and folders; returns how many bytes they had."""
    freed_bytes = 0
    for path in paths:
        files = path.rglob("*") if path.is_dir() else [path]
        freed_bytes += sum(file.stat().st_size for file in files if file.is_file())
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return freed_bytes


def count_states(runs: Sequence[RunStatus]) -> dict[str, int]:
    """Count the runs by state."""
    return {state: sum(run.state == state for run in runs) for state in RUN_STATES}
