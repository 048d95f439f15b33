"""The jobs of a results folder: which of them still live, and how one is ended."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from hpcbench.cluster.processes import ProcessIdentity
from hpcbench.errors import HpcbenchError
from hpcbench.records import ledger
from hpcbench.records.layout import JobFolder, ResultsFolder
from hpcbench.records.writer import write_atomically

# A job ends its ranks within five seconds; what still lives after this is killed.
PATIENCE_S = 8.0
POLL_S = 0.05


@dataclass(frozen=True, kw_only=True)
class Job:
    """A submission as the ledger has it; `runs` are `name/rK`."""

    job_id: str
    folder: JobFolder
    runs: tuple[str, ...]
    cancelled: bool

    def alive(self) -> bool:
        """Return whether it works or waits; a job of a machine that can't be asked counts as living."""
        return any(process.alive() is not False for process in self.processes())

    def processes(self) -> list[ProcessIdentity]:
        """Return the process that does the runs, once it has begun, and the executor's around it."""
        identities = (_read_identity(path) for path in (self.folder.owner, self.folder.controller))
        return [identity for identity in identities if identity]


def read_jobs(results: ResultsFolder) -> list[Job]:
    """List the jobs of a results folder, oldest first."""
    entries = [entry for _, entry in ledger.read(results.ledger)]
    cancelled = {entry.job_id for entry in entries if isinstance(entry, ledger.Cancelled)}
    return [
        Job(
            job_id=entry.job_id,
            folder=results.job(entry.job_id),
            runs=tuple(entry.runs),
            cancelled=entry.job_id in cancelled,
        )
        for entry in entries
        if isinstance(entry, ledger.Submitted)
    ]


def write_identity(path: Path, pid: int | None = None) -> None:
    """Note which process this is, or which has the number `pid`."""
    identity = ProcessIdentity.of(os.getpid() if pid is None else pid)
    write_atomically(path, json.dumps(identity.to_json()))


def _read_identity(path: Path) -> ProcessIdentity | None:
    try:
        return ProcessIdentity(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


def cancel_job(results: ResultsFolder, job: Job, number: signal.Signals = signal.SIGTERM) -> None:
    """Note in the ledger that a job is cancelled, and end it."""
    ledger.append(results.ledger, ledger.Cancelled(job_id=job.job_id))
    end_job(job, number)


def end_job(job: Job, number: signal.Signals = signal.SIGTERM) -> None:
    """End a job and all its ranks; returns when nothing of it is left.

    Raises HpcbenchError where the job is on another machine or belongs to somebody else.
    """
    told: set[int] = set()
    deadline = time.monotonic() + PATIENCE_S
    while living := [process for process in job.processes() if process.alive() is not False]:
        # The executor's process is told only while the job itself has not begun: it would pass the signal on,
        # and a second signal means "at once".
        target = living[0]
        if target.alive() is None:
            raise HpcbenchError(f"job {job.job_id} is on {target.host}: cancel it there")
        if time.monotonic() > deadline:
            for process in living:
                _send(job, process, signal.SIGKILL)
        elif target.pid not in told and (target.pid == _owner_pid(job) or not told):
            told.add(target.pid)
            _send(job, target, number)
        time.sleep(POLL_S)


def _owner_pid(job: Job) -> int | None:
    owner = _read_identity(job.folder.owner)
    return owner.pid if owner else None


def _send(job: Job, process: ProcessIdentity, number: signal.Signals) -> None:
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise HpcbenchError(f"job {job.job_id} belongs to another user: it can't be ended by you") from error
