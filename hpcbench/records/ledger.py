"""The ledger of a sweep: who submitted what, which attempts count, what was cancelled.

Append-only, one JSON object a line, shared by submitters, jobs and `cancel`; a lock file keeps lines of
two writers apart.
"""

from __future__ import annotations

import getpass
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import jsonlines
from filelock import FileLock

LEDGER_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A line of the ledger."""

    kind: ClassVar[str]


@dataclass(frozen=True, kw_only=True)
class Submitted(Entry):
    """A job was handed to an executor. `runs` are `name/rK`; `host` and `pid` say who asked.

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
class Attempt(Entry):
    """A job has claimed an attempt at a run: from now on the attempt's records count."""

    kind: ClassVar[str] = "attempt"
    job_id: str
    run: str
    run_id: str
    attempt: int
    host: str = field(default_factory=platform.node)
    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, kw_only=True)
class Requeued(Entry):
    """A job was put back into the queue with its runs."""

    kind: ClassVar[str] = "requeued"
    job_id: str
    runs: list[str]
    reason: str


@dataclass(frozen=True, kw_only=True)
class Cancelled(Entry):
    """Somebody cancelled a job."""

    kind: ClassVar[str] = "cancelled"
    job_id: str
    host: str = field(default_factory=platform.node)
    user: str = field(default_factory=getpass.getuser)


KINDS: dict[str, type[Entry]] = {cls.kind: cls for cls in (Submitted, Attempt, Requeued, Cancelled)}


def append(path: Path, entry: Entry) -> None:
    """Add a line, whole, and wait until it is on disk."""
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


def read(path: Path) -> list[tuple[int, Entry]]:
    """Return (time_ns, entry) in order; a torn last line is dropped, a missing ledger is empty."""
    entries: list[tuple[int, Entry]] = []
    if not path.exists():
        return entries
    whole = path.read_bytes().rpartition(b"\n")[0]
    for line in jsonlines.Reader(whole.splitlines()):
        cls = KINDS[line.pop("event")]
        del line["schema"]
        entries.append((line.pop("time_ns"), cls(**line)))
    return entries
