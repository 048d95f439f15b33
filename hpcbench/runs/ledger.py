"""What a results folder keeps about jobs: the ledger (`ledger.jsonl`), the plan of each job (`plan.json`),
and the ids of jobs and runs in both.
"""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jsonlines
from filelock import FileLock
from pydantic import TypeAdapter

from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import JobFolder, ResultsFolder

LEDGER_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class LedgerEntry:
    """A line of the ledger."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class JobSubmitted(LedgerEntry):
    """A job was handed to an executor. `runs` are `name/rK`; `host` and `pid` are those of the submitter.

    `name` is what the scheduler knows the job by; in an `array` each run is a job of its own there.
    """

    kind: ClassVar[str] = "submitted"
    job_id: str
    executor: str
    runs: list[str]
    name: str | None = None
    array: bool = False
    host: str = field(default_factory=platform.node)
    user: str = field(default_factory=getpass.getuser)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, kw_only=True)
class AttemptClaimed(LedgerEntry):
    """A job has claimed an attempt at a run: from now on the attempt's records count."""

    kind: ClassVar[str] = "attempt"
    job_id: str
    run: str
    run_id: str
    attempt: int
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, kw_only=True)
class JobRequeued(LedgerEntry):
    """A job was put back into the queue with its runs."""

    kind: ClassVar[str] = "requeued"
    job_id: str
    runs: list[str]
    reason: str


@dataclass(frozen=True, kw_only=True)
class JobCancelled(LedgerEntry):
    """A user cancelled a job."""

    kind: ClassVar[str] = "cancelled"
    job_id: str
    host: str = field(default_factory=platform.node)
    user: str = field(default_factory=getpass.getuser)


ENTRY_KINDS: dict[str, type[LedgerEntry]] = {
    cls.kind: cls for cls in (JobSubmitted, AttemptClaimed, JobRequeued, JobCancelled)
}


def append_entry(path: Path, entry: LedgerEntry) -> None:
    """Add a line, and wait until it is on disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line: dict[str, Any] = {
        "event": entry.kind,
        "schema": LEDGER_SCHEMA,
        "time_ns": time.time_ns(),
        **asdict(entry),
    }
    with FileLock(path.with_name(".ledger.lock"), timeout=60), path.open("a", encoding="utf-8") as file:
        with jsonlines.Writer(file, compact=True) as lines:
            lines.write(line)
        file.flush()
        os.fsync(file.fileno())


def read_ledger(path: Path) -> list[tuple[int, LedgerEntry]]:
    """Return (time_ns, entry) in order; a torn last line is dropped, a missing ledger is empty."""
    entries: list[tuple[int, LedgerEntry]] = []
    if not path.exists():
        return entries
    complete = path.read_bytes().rpartition(b"\n")[0]
    for line in jsonlines.Reader(complete.splitlines()):
        cls = ENTRY_KINDS[line.pop("event")]
        del line["schema"]
        entries.append((line.pop("time_ns"), cls(**line)))
    return entries


@dataclass(frozen=True, kw_only=True)
class JobPlan:
    """The runs of a job, in the order in which it does them.

    `visible_devices` is the submitter's CUDA_VISIBLE_DEVICES, which submitit overwrites.
    `presume_silent_dead` lets the job take over from owners on other machines that show no sign of life.
    What follows it is for jobs of Slurm: their unique `name` there, whether each run is an element of an
    `array`, on how many `nodes` they are done together, how often they may go back into the queue, and how
    long before the end of their time they are signalled.
    """

    job_id: str
    results: str
    runs: tuple[tuple[str, int], ...]
    shared: bool = False
    presume_silent_dead: bool = False
    visible_devices: str | None = None
    name: str | None = None
    array: bool = False
    nodes: int = 1
    max_requeues: int = 0
    notice_s: float = 0.0
    host: str = field(default_factory=platform.node)

    @property
    def folder(self) -> JobFolder:
        """Where the job's own files are."""
        return ResultsFolder(Path(self.results)).job(self.job_id)

    def write(self) -> None:
        """Write the plan into the job's folder."""
        write_atomically(self.folder.plan, PLAN_JSON.dump_json(self, indent=1).decode())


PLAN_JSON = TypeAdapter(JobPlan)


def read_plan(path: Path) -> JobPlan:
    """Read a plan back."""
    return PLAN_JSON.validate_json(path.read_bytes())


def new_job_id() -> str:
    """Return a unique job id that sorts by time."""
    return f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(3)}"


def run_key(name: str, repeat: int) -> str:
    """Return how the ledger names a run."""
    return f"{name}/r{repeat}"


def array_element_id(job_id: str, index: int | None) -> str:
    """Return how an element of an array is named: `index` counts from 0; None for a job that is no array."""
    return job_id if index is None else f"{job_id}.{index}"
