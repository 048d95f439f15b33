"""The jobs of a results folder: which of them are alive, why they wait, and how they are cancelled."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import overload

from hpcbench.errors import HpcbenchError
from hpcbench.launch.slurm.slurm_client import SlurmError, SlurmSnapshot, run_slurm
from hpcbench.runs import ledger
from hpcbench.runs.claim import Claim
from hpcbench.runs.ledger import array_element_id
from hpcbench.runs.process_identity import ProcessIdentity, read_identity
from hpcbench.runs.results_folder import JobFolder, ResultsFolder

# A job ends its ranks within five seconds; what still lives after this is killed.
CANCEL_TIMEOUT_S = 8.0
# The accounting counts by the clock of its own machine.
CLOCK_SKEW_S = 3600
POLL_S = 0.05
SLURM_POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submission as the ledger has it, or an element of one that is an array; `runs` are `name/rK`.

    `slurm` is what a scheduler says, where the job has a `name` there; `index` counts in an array.
    """

    job_id: str
    folder: JobFolder
    runs: tuple[str, ...]
    cancelled: bool
    name: str | None = None
    index: int | None = None
    slurm: SlurmSnapshot | None = None

    def alive(self) -> bool:
        """Return whether it works or waits; a job that nobody can be asked about counts as living."""
        if self.slurm is not None and self.name is not None:
            return self.slurm.alive(self.name, self.index)
        return any(process.alive() is not False for process in self.processes())

    def works_at(self, claim: Claim) -> bool | None:
        """Return whether it may still be working at what it claimed; None where that can't be known."""
        if self.slurm is None or self.name is None:
            return None
        place = self.slurm.find(self.name, self.index)
        if place is None:
            return None if self.slurm.problem else False
        return place.alive and not place.waiting and place.restarts <= claim.restart

    def comes_back(self, claim: Claim) -> bool:
        """Return whether it was put back into the queue since it made a claim."""
        place = self.slurm.find(self.name, self.index) if self.slurm and self.name else None
        return place is not None and place.alive and (place.waiting or place.restarts > claim.restart)

    def how_it_never_came(self) -> str:
        """Return why it is over and has not even begun one of its runs."""
        words = self.last_words()
        if self.name and not words and not self.folder.owner.exists():
            return (
                "Slurm does not know its job: it was not submitted, or so long ago that Slurm has forgotten"
            )
        if self.name and not self.folder.owner.exists():
            return (
                f"its job ended without a word ({words}): can its nodes see {self.folder.path}? "
                f"What it printed should be in {self.folder.output}"
            )
        said = f" ({words})" if words else ""
        return f"its job ended before it came to this run{said}; what it said is in {self.folder.path}"

    def waits(self) -> str:
        """Return what a run waits for that this job is to do, as the scheduler puts it."""
        place = self.slurm.find(self.name, self.index) if self.slurm and self.name else None
        if self.folder.probing.exists() and not (place and place.waiting):
            return "its job first measures what the node can do"
        return str(place) if place else "queued"

    def last_words(self) -> str:
        """Return how it ended, as the scheduler puts it; empty where that is not known."""
        place = self.slurm.ending(self.name, self.index) if self.slurm and self.name else None
        return str(place) if place else ""

    def processes(self) -> list[ProcessIdentity]:
        """Return the process that does the runs, once it has begun, and the executor's around it."""
        identities = (read_identity(path) for path in (self.folder.owner, self.folder.controller))
        return [identity for identity in identities if identity]


class Jobs(list[Job]):
    """The jobs of a results folder, oldest first."""

    @cached_property
    def _by_run(self) -> dict[str, list[Job]]:
        by_run: dict[str, list[Job]] = defaultdict(list)
        for job in self:
            for run in job.runs:
                by_run[run].append(job)
        return by_run

    def of(self, run: str) -> list[Job]:
        """Return the jobs that were to do a run: of thousands, in arrays, one or two."""
        return self._by_run.get(run, [])


def read_jobs(results: ResultsFolder) -> Jobs:
    """List the jobs of a results folder, oldest first."""
    entries = ledger.read_ledger(results.ledger)
    cancelled = {entry.job_id for _, entry in entries if isinstance(entry, ledger.JobCancelled)}
    submitted = [(since, entry) for since, entry in entries if isinstance(entry, ledger.JobSubmitted)]
    named = [(since, entry.name) for since, entry in submitted if entry.name]
    slurm = None
    if named:
        began = datetime.fromtimestamp(named[0][0] / 1e9 - CLOCK_SKEW_S)
        slurm = SlurmSnapshot([name for _, name in named], began.isoformat(timespec="seconds"))
    return Jobs(
        Job(
            job_id=array_element_id(entry.job_id, index),
            folder=results.job(entry.job_id),
            runs=runs,
            cancelled=entry.job_id in cancelled,
            name=entry.name,
            index=index,
            slurm=slurm if entry.name else None,
        )
        for _, entry in submitted
        for index, runs in _array_elements(entry)
    )


def _array_elements(entry: ledger.JobSubmitted) -> list[tuple[int | None, tuple[str, ...]]]:
    if not entry.array:
        return [(None, tuple(entry.runs))]
    return [(index, (run,)) for index, run in enumerate(entry.runs)]


class LivingJobs(Sequence[Job]):
    """Those of some jobs that live; nobody is asked before the first one is wanted."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    @cached_property
    def _living(self) -> list[Job]:
        return [job for job in self._jobs if job.alive()]

    @cached_property
    def _ids(self) -> set[str]:
        return {job.job_id for job in self._living}

    def __contains__(self, job: object) -> bool:
        return isinstance(job, Job) and job.job_id in self._ids

    def __len__(self) -> int:
        return len(self._living)

    @overload
    def __getitem__(self, at: int) -> Job: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Job]: ...
    def __getitem__(self, at: int | slice) -> Job | Sequence[Job]:
        return self._living[at]


def is_job_over(results: ResultsFolder, job_id: str) -> bool | None:
    """Return whether the scheduler says that a job is over; None where it can't know."""
    job = next((job for job in read_jobs(results) if job.job_id == job_id), None)
    return None if job is None or job.slurm is None else not job.alive()


def cancel_job(results: ResultsFolder, job: Job, number: signal.Signals = signal.SIGTERM) -> None:
    """Note in the ledger that a job is cancelled, and end it."""
    ledger.append_entry(results.ledger, ledger.JobCancelled(job_id=job.job_id))
    end_job(job, number)


def cancel_on_cluster(results: ResultsFolder, jobs: Sequence[Job]) -> list[str]:
    """Cancel jobs in a scheduler's queue, all with one request; returns how the scheduler calls them.

    Raises SlurmError where the scheduler refuses or does not answer.
    """
    places = [job.slurm.find(job.name, job.index) for job in jobs if job.slurm and job.name]
    unreachable = [job.slurm.problem for job in jobs if job.slurm and job.slurm.problem]
    if unreachable:
        raise SlurmError(f"Slurm does not answer: {unreachable[0]}. Nothing was cancelled")
    slurm_ids = list(dict.fromkeys(place.slurm_id.partition("_")[0] for place in places if place))
    if not slurm_ids:
        return []
    for job_id in dict.fromkeys(job.folder.path.name for job in jobs):
        ledger.append_entry(results.ledger, ledger.JobCancelled(job_id=job_id))
    run_slurm(["scancel", *slurm_ids])
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while time.monotonic() < deadline and any(job.alive() for job in read_jobs(results) if job.slurm):
        time.sleep(SLURM_POLL_S)
    return [f"Slurm job {slurm_id}" for slurm_id in slurm_ids]


def end_job(job: Job, number: signal.Signals = signal.SIGTERM) -> None:
    """End a job and all its ranks; returns when nothing of it is left.

    Raises HpcbenchError where the job is on another machine or belongs to somebody else.
    """
    told: set[int] = set()
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while living := [process for process in job.processes() if process.alive() is not False]:
        # The executor's process is told only while the job itself has not begun: it would pass the signal on,
        # and a second signal means "at once".
        target = living[0]
        if target.alive() is None:
            raise HpcbenchError(f"job {job.job_id} is on {target.host}: cancel it there")
        if time.monotonic() > deadline:
            for process in living:
                _send_signal(job, process, signal.SIGKILL)
        elif target.pid not in told and (target.pid == _owner_pid(job) or not told):
            told.add(target.pid)
            _send_signal(job, target, number)
        time.sleep(POLL_S)


def _owner_pid(job: Job) -> int | None:
    owner = read_identity(job.folder.owner)
    return owner.pid if owner else None


def _send_signal(job: Job, process: ProcessIdentity, number: signal.Signals) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise HpcbenchError(f"job {job.job_id} belongs to another user: it can't be ended by you") from error
