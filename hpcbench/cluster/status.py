"""The truth about every run of a results folder: from its records, and from who still lives.

Nothing is believed because a scheduler or a job says so: done is a run whose ranks all say that they have
finished, running one whose owner lives. Reads the ends of files only, and imports neither pandas nor torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from hpcbench.cluster.claim import SILENT_AFTER_S, Claim, latest_claim, read_claim
from hpcbench.cluster.jobs import Job, Jobs, Living, read_jobs
from hpcbench.cluster.plan import run_key
from hpcbench.cluster.progress import Progress, read_progress
from hpcbench.cluster.stored import read_raw
from hpcbench.cluster.verdict import NODE, tail_of_text
from hpcbench.errors import InputError
from hpcbench.records.events import Interrupted, RunFailed
from hpcbench.records.layout import ResultsFolder, RunFolder
from hpcbench.records.tail import Line, is_finished, last_lines

# What a supervisor or a rank says of how an attempt ended, if it did not finish.
ENDINGS = (RunFailed.kind, Interrupted.kind)

State = Literal["pending", "running", "done", "failed", "interrupted", "lost", "cancelled"]
STATES: tuple[State, ...] = ("pending", "running", "done", "failed", "interrupted", "lost", "cancelled")
BAD: tuple[State, ...] = ("failed", "lost")


@dataclass(frozen=True, kw_only=True)
class RunStatus:
    """What is known of one repeat of a run. `limit` is a result ("memory"), and such a run is done."""

    name: str
    repeat: int
    run_id: str
    strategy: str
    ranks: int
    state: State
    reason: str = ""
    job_id: str | None = None
    queued: bool = False  # a living job will do it
    attempt: int | None = None
    wall_s: float | None = None
    limit: str | None = None
    failed_rank: int | None = None
    last_lines: list[str] = field(default_factory=list)
    progress: Progress | None = None

    @property
    def key(self) -> str:
        """How the ledger names it."""
        return run_key(self.name, self.repeat)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def open_results(path: str) -> ResultsFolder:
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
    living = Living(jobs)
    return [
        run_status(name, repeat, folder, jobs, living)
        for name, repeat, folder in results.runs()
        if folder.spec.exists()
    ]


def run_status(name: str, repeat: int, folder: RunFolder, jobs: Jobs, living: Sequence[Job]) -> RunStatus:
    """Return the status of a run; `jobs` are all of its sweep, `living` those of them that live."""
    raw = read_raw(folder)
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
            return replace(known, state="done", wall_s=known.wall_s or _until_last_word_s(folder, claim))
    mine = jobs.of(known.key)
    planned = [job for job in mine if job in living]
    if claim is None:
        return _never_begun(known, mine, planned[0] if planned else None)
    alive = _works(claim, mine)
    if alive or (alive is None and claim.silent_s() < SILENT_AFTER_S):
        return replace(known, state="running", progress=read_progress(folder, claim.attempt, spec))
    queued_in = _who_will_do_it(folder, claim, planned)
    ended = _ending(known, folder, claim)
    if queued_in:
        return _queued_again(ended, queued_in)
    return _in_schedulers_words(ended, mine) if ended.state == "lost" else ended


def _works(claim: Claim, jobs: Sequence[Job]) -> bool | None:
    """Return whether the owner of a claim works at it; None where neither machine nor scheduler knows."""
    alive = claim.owner_alive()
    if alive is not None:
        return alive
    job = next((job for job in jobs if job.job_id == claim.job_id), None)
    return job.works_at(claim) if job else None


def _who_will_do_it(folder: RunFolder, claim: Claim, planned: list[Job]) -> Job | None:
    """Return the living job that has this run before it, if there is one.

    A job that has begun it does it again only if it was put back into the queue in the meantime.
    """
    begun = {read_claim(folder, attempt).job_id for attempt in folder.attempts()}
    failed = claim.ending is not None and claim.ending.state == "failed"
    return next(
        (job for job in planned if job.job_id not in begun or (not failed and job.comes_back(claim))), None
    )


def _in_schedulers_words(lost: RunStatus, jobs: Sequence[Job]) -> RunStatus:
    job = next((job for job in jobs if job.job_id == lost.job_id), None)
    words = job.last_words() if job else ""
    return replace(lost, reason=f"{lost.reason} ({words})") if words else lost


def _never_begun(known: RunStatus, jobs: Sequence[Job], queued_in: Job | None) -> RunStatus:
    if queued_in:
        return replace(known, queued=True, reason=queued_in.waits(), job_id=queued_in.job_id)
    if not jobs:
        return replace(known, reason="not submitted")
    known = replace(known, job_id=jobs[-1].job_id)
    if jobs[-1].cancelled:
        return replace(known, state="cancelled", reason="cancelled before it began")
    return replace(known, state="lost", reason=jobs[-1].how_it_never_came())


def _queued_again(ended: RunStatus, job: Job) -> RunStatus:
    reason = f"{job.waits()}, again; attempt {ended.attempt} {ended.state}: {ended.reason}"
    return replace(ended, state="pending", queued=True, reason=reason, job_id=job.job_id, last_lines=[])


def _ending(known: RunStatus, folder: RunFolder, claim: Claim) -> RunStatus:
    """Complete what is known of an attempt that is over: the supervisor's word before that of a rank."""
    said = last_lines(folder.supervisor_events(claim.attempt, NODE))
    words = [line for line in said if line["event"] in ENDINGS] or _words_of_ranks(folder, claim)
    failed = next((line for line in words if line["event"] == RunFailed.kind), None)
    stopped = next((line for line in words if line["event"] == Interrupted.kind), None)
    if failed:
        return _failure(known, folder, claim, failed)
    if stopped:
        return replace(known, state="interrupted", reason=stopped["reason"])
    if claim.ending and claim.ending.state == "interrupted":
        return replace(known, state="interrupted", reason=claim.ending.reason)
    printed = tail_of_text(folder.log(claim.attempt, 0))
    if claim.ending and claim.ending.state == "failed":
        return replace(known, state="failed", reason=claim.ending.reason, last_lines=printed)
    owner = f"process {claim.owner.pid} of {claim.owner.host}"
    reason = f"{owner} died without a word"
    if claim.owner_alive() is None:
        reason = f"no sign of life from {owner} for {claim.silent_s():.0f} s; retry --lost takes it over"
    return replace(known, state="lost", reason=reason, last_lines=printed)


def _failure(known: RunStatus, folder: RunFolder, claim: Claim, line: Line) -> RunStatus:
    """Out of memory is a result of the run, not a failure of the sweep (DESIGN, section 4)."""
    rank = line.get("failed_rank")
    return replace(
        known,
        state="done" if line.get("limit") else "failed",
        limit=line.get("limit"),
        # The claim knows more where the record itself could not be written.
        reason=claim.ending.reason if claim.ending and claim.ending.reason else line["reason"],
        failed_rank=rank,
        last_lines=line.get("last_lines") or tail_of_text(folder.log(claim.attempt, rank or 0)),
    )


def _words_of_ranks(folder: RunFolder, claim: Claim) -> list[Line]:
    """Return the failures and interruptions that ranks wrote themselves, the earliest first."""
    files = [file for file in folder.event_files() if file.attempt == claim.attempt]
    words = (line for file in files for line in last_lines(file.path))
    return sorted((line for line in words if line["event"] in ENDINGS), key=lambda line: line["time_ns"])


def _wall_s(claim: Claim) -> float | None:
    return (claim.ending.time_ns - claim.time_ns) / 1e9 if claim.ending and claim.ending.time_ns else None


def _until_last_word_s(folder: RunFolder, claim: Claim) -> float:
    words = last_lines(folder.events(claim.attempt, 0))
    return (int(words[-1]["time_ns"]) - claim.time_ns) / 1e9


def counts(runs: Sequence[RunStatus]) -> dict[str, int]:
    """Count the runs by state."""
    return {state: sum(run.state == state for run in runs) for state in STATES}
