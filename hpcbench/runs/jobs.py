"""The jobs of a results folder: which of them are alive, why they wait, and how they are cancelled."""

from __future__ import annotations

import os
import signal
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from typing import Protocol, overload

from hpcbench.errors import HpcbenchError
from hpcbench.runs import ledger
from hpcbench.runs.claim import Claim, ProcessIdentity, read_identity
from hpcbench.runs.ledger import array_element_id
from hpcbench.runs.results_folder import JobFolder, ResultsFolder

# A job ends its ranks within five seconds; what still lives after this is killed.
CANCEL_TIMEOUT_S = 8.0
# The accounting counts by the clock of its own machine.
CLOCK_SKEW_S = 3600
SIGNAL_POLL_S = 0.05


class ScheduledJob(Protocol):
    """A job as its scheduler has it; its text says where it stands."""

    @property
    def scheduler_id(self) -> str:
        """How the scheduler calls it."""

    @property
    def alive(self) -> bool:
        """Whether it waits, runs, or is just about to be gone."""

    @property
    def waiting(self) -> bool:
        """Whether it has not begun, or has to begin again."""

    @property
    def restarts(self) -> int:
        """How often it was requeued."""


class SchedulerStates(Protocol):
    """What a scheduler knows of some jobs, each found by its name and its index in an array."""

    @property
    def problem(self) -> str | None:
        """Why the scheduler does not answer, None where it does."""

    def find(self, name: str, index: int | None) -> ScheduledJob | None:
        """Return where a job stands; None for one that the scheduler does not know (any more)."""

    def alive(self, name: str, index: int | None) -> bool:
        """Return whether a job waits or works; as long as the scheduler does not answer, it may."""

    def ending(self, name: str, index: int | None) -> ScheduledJob | None:
        """Return how a job ended; None where that is not known."""


# Given names of jobs, and an ISO time before which none of them was submitted.
AskScheduler = Callable[[Sequence[str], str], SchedulerStates]


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submission as the ledger has it, or an element of one that is an array; `runs` are `name/rK`.

    `scheduler` is asked where the job has a `name` there; `index` counts in an array.
    """

    job_id: str
    folder: JobFolder
    runs: tuple[str, ...]
    cancelled: bool
    name: str | None = None
    index: int | None = None
    scheduler: SchedulerStates | None = None

    def alive(self) -> bool:
        """Return whether it works or waits; a job whose state can't be known counts as living."""
        if self.scheduler is not None and self.name is not None:
            return self.scheduler.alive(self.name, self.index)
        return any(process.alive() is not False for process in self.processes())

    def scheduled(self) -> ScheduledJob | None:
        """Return what its scheduler says of it now."""
        return self.scheduler.find(self.name, self.index) if self.scheduler and self.name else None

    def is_working_on(self, claim: Claim) -> bool | None:
        """Return whether it may still be working on what it claimed; None where that can't be known."""
        if self.scheduler is None or self.name is None:
            return None
        state = self.scheduled()
        if state is None:
            return None if self.scheduler.problem else False
        return state.alive and not state.waiting and state.restarts <= claim.restart

    def is_requeued_since(self, claim: Claim) -> bool:
        """Return whether it was requeued since it made a claim."""
        state = self.scheduled()
        return state is not None and state.alive and (state.waiting or state.restarts > claim.restart)

    def reason_never_started(self) -> str:
        """Return why it is over and has not even begun one of its runs."""
        ending = self.scheduler_ending()
        if self.name and not ending and not self.folder.owner.exists():
            return (
                "Slurm does not know its job: it was not submitted, or so long ago that Slurm has forgotten"
            )
        if self.name and not self.folder.owner.exists():
            return (
                f"its job ended without a record ({ending}): can its nodes see {self.folder.path}? "
                f"What it printed should be in {self.folder.output}"
            )
        reported = f" ({ending})" if ending else ""
        return f"its job ended before it came to this run{reported}; what it printed is in {self.folder.path}"

    def waiting_reason(self) -> str:
        """Return what a run waits for that this job is to do, in the scheduler's words."""
        state = self.scheduled()
        if self.folder.probing.exists() and not (state and state.waiting):
            return "its job first measures what the node can do"
        return str(state) if state else "queued"

    def scheduler_ending(self) -> str:
        """Return how it ended, in the scheduler's words; empty where that is not known."""
        state = self.scheduler.ending(self.name, self.index) if self.scheduler and self.name else None
        return str(state) if state else ""

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

    def for_run(self, run: str) -> list[Job]:
        """Return the jobs that were to do a run: of thousands, in arrays, one or two."""
        return self._by_run.get(run, [])


def read_jobs(results: ResultsFolder, ask_scheduler: AskScheduler) -> Jobs:
    """List the jobs of a results folder, oldest first. The scheduler is asked only where it has some."""
    entries = ledger.read_ledger(results.ledger)
    cancelled = {entry.job_id for _, entry in entries if isinstance(entry, ledger.JobCancelled)}
    submitted = [(since, entry) for since, entry in entries if isinstance(entry, ledger.JobSubmitted)]
    named = [(since, entry.name) for since, entry in submitted if entry.name]
    scheduler = None
    if named:
        began = datetime.fromtimestamp(named[0][0] / 1e9 - CLOCK_SKEW_S)
        scheduler = ask_scheduler([name for _, name in named], began.isoformat(timespec="seconds"))
    return Jobs(
        Job(
            job_id=array_element_id(entry.job_id, index),
            folder=results.job(entry.job_id),
            runs=runs,
            cancelled=entry.job_id in cancelled,
            name=entry.name,
            index=index,
            scheduler=scheduler if entry.name else None,
        )
        for _, entry in submitted
        for index, runs in _array_elements(entry)
    )


def _array_elements(entry: ledger.JobSubmitted) -> list[tuple[int | None, tuple[str, ...]]]:
    if not entry.array:
        return [(None, tuple(entry.runs))]
    return [(index, (run,)) for index, run in enumerate(entry.runs)]


class LivingJobs(Sequence[Job]):
    """The living ones among some jobs; looked up when the first one is needed."""

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


def is_job_over(results: ResultsFolder, ask_scheduler: AskScheduler, job_id: str) -> bool | None:
    """Return whether the scheduler says that a job is over; None where it can't know."""
    job = next((job for job in read_jobs(results, ask_scheduler) if job.job_id == job_id), None)
    return None if job is None or job.scheduler is None else not job.alive()


def cancel_job(results: ResultsFolder, job: Job, number: signal.Signals = signal.SIGTERM) -> None:
    """Note in the ledger that a job is cancelled, and end it."""
    ledger.append_entry(results.ledger, ledger.JobCancelled(job_id=job.job_id))
    end_job(job, number)


def end_job(job: Job, number: signal.Signals = signal.SIGTERM) -> None:
    """End a job and all its ranks; returns when nothing of it is left.

    Raises HpcbenchError where the job is on another machine or belongs to another user.
    """
    signalled: set[int] = set()
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while living := [process for process in job.processes() if process.alive() is not False]:
        # The executor's process is signalled only while the job itself has not begun: it would pass the
        # signal on, and a second signal means "at once".
        target = living[0]
        if target.alive() is None:
            raise HpcbenchError(f"job {job.job_id} is on {target.host}: cancel it there")
        if time.monotonic() > deadline:
            for process in living:
                _send_signal(job, process, signal.SIGKILL)
        elif target.pid not in signalled and (target.pid == _owner_pid(job) or not signalled):
            signalled.add(target.pid)
            _send_signal(job, target, number)
        time.sleep(SIGNAL_POLL_S)


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
