"""The claim on an attempt: one process may write its records. And the identity of that process."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Self

from pydantic import TypeAdapter

from hpcbench.errors import HpcbenchError
from hpcbench.runs.record_reader import is_finished
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec

PROC = Path("/proc")
STAT_STATE, STAT_START_TIME = 0, 19  # fields 3 and 22 of proc(5) stat, counted after the command's name


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process of some machine, so that another process can tell later whether it still lives.

    `boot_id` changes with every start of the machine, `namespace` names the set of pids that `pid` belongs to
    (a container has its own), `start_ticks` is when the process began, in clock ticks since boot.
    """

    host: str
    boot_id: str
    namespace: str
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Identify a living process of this machine; raises ProcessLookupError where there is none."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(pid)
        return cls(
            host=this_host(), boot_id=_boot_id(), namespace=_pid_namespace(), pid=pid, start_ticks=ticks
        )

    @classmethod
    def current(cls) -> Self:
        """Identify this process."""
        return cls.of(os.getpid())

    def alive(self) -> bool | None:
        """Return whether it lives; None where that is not known here (another machine or container)."""
        if self.host != this_host():
            return None
        if self.boot_id != _boot_id():
            return False
        if self.namespace != _pid_namespace():
            return None
        return _start_ticks(self.pid) == self.start_ticks


def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return str((PROC / "self/ns/pid").readlink())


def _start_ticks(pid: int) -> int | None:
    """Return when a process began; None for one that is gone, or dead and only not yet collected."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[STAT_STATE] in "ZX" else int(fields[STAT_START_TIME])


def this_host() -> str:
    """Return the name of this machine; inside a job of Slurm the one that Slurm has for it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def write_identity(path: Path, pid: int | None = None) -> None:
    """Note which process this is, or which has the number `pid`."""
    identity = ProcessIdentity.of(os.getpid() if pid is None else pid)
    write_atomically(path, json.dumps(asdict(identity)))


def read_identity(path: Path) -> ProcessIdentity | None:
    """Return the identity in a file, or None where there is none."""
    try:
        return ProcessIdentity(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None


CLAIM_BYTES = 4096
REASON_CHARACTERS = 800
HEARTBEAT_S = 10.0
# An owner on another machine counts as silent after so long without a heartbeat.
SILENT_AFTER_S = 120.0


class AlreadyClaimedError(HpcbenchError):
    """Another process has the run, or may have it."""


EndingState = Literal["finished", "failed", "interrupted", "lost"]


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended, as its owner saw it; lost: the claim itself can't be read."""

    state: EndingState
    reason: str = ""
    time_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Claim:
    """Who owns an attempt at a run, since when, and how it ended (None: it has not, or its owner died).

    `restart` counts how often the scheduler had put the job back into its queue by then, `nodes` are those of
    the run as the scheduler calls them.
    """

    folder: RunFolder
    attempt: int
    run_id: str
    job_id: str
    owner: ProcessIdentity
    time_ns: int
    ending: Ending | None = None
    restart: int = 0
    nodes: tuple[str, ...] = ()

    def is_superseded(self) -> bool:
        """Return whether there is a newer attempt: then this one was given up as dead, and must not go on."""
        return self.folder.claim(self.attempt + 1).exists()

    def heartbeat(self) -> None:
        """Show that the owner lives, on machines that can't look at its processes."""
        os.utime(self.folder.claim(self.attempt))

    def finish(self, ending: Ending) -> None:
        """Record that the attempt is over. Raises OSError where not even that can be written."""
        page = _page(replace(self, ending=ending))
        with self.folder.claim(self.attempt).open("r+b") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())

    def owner_alive(self) -> bool | None:
        """Return whether the attempt is still being worked on; None where that can't be known from here."""
        return False if self.ending else self.owner.alive()

    def heartbeat_age_s(self) -> float:
        """Return the seconds since the last heartbeat."""
        return time.time() - self.folder.claim(self.attempt).stat().st_mtime


CLAIM_JSON = TypeAdapter(Claim)


def _page(claim: Claim) -> bytes:
    """Return what a claim's file holds: JSON, padded so that the ending has room and is written at once."""
    if claim.ending:
        short = replace(claim.ending, reason=claim.ending.reason[:REASON_CHARACTERS])
        claim = replace(claim, ending=short)
    text = CLAIM_JSON.dump_json(claim, exclude={"folder"})
    if len(text) >= CLAIM_BYTES:  # a job of hundreds of nodes
        text = CLAIM_JSON.dump_json(replace(claim, nodes=claim.nodes[:1]), exclude={"folder"})
    assert len(text) < CLAIM_BYTES, "a claim fits its page"
    return text.ljust(CLAIM_BYTES - 1) + b"\n"


def latest_claim(folder: RunFolder) -> Claim | None:
    """Return the claim on the newest attempt, None where there was none."""
    attempts = folder.attempts()
    return read_claim(folder, attempts[-1]) if attempts else None


def read_claim(folder: RunFolder, attempt: int) -> Claim:
    """Read a claim. One that was cut off while being created has no owner, so it is lost."""
    try:
        values = json.loads(folder.claim(attempt).read_bytes())
    except ValueError:
        no_process = ProcessIdentity(host="", boot_id="", namespace="", pid=0, start_ticks=0)
        ended = Ending(state="lost", reason="its claim was cut off")
        return Claim(
            folder=folder, attempt=attempt, run_id="", job_id="", owner=no_process, time_ns=0, ending=ended
        )
    return CLAIM_JSON.validate_python(values | {"folder": folder})


def claim_next(
    folder: RunFolder,
    spec: RunSpec,
    job_id: str,
    *,
    silent: bool = False,
    restart: int = 0,
    nodes: Sequence[str] = (),
    is_over: Callable[[str], bool | None] = lambda job_id: None,
) -> Claim:
    """Claim the next attempt at a run for this process.

    The attempt before must be over without having finished, or its owner provably dead; with `silent`, an
    owner on another machine that has shown no sign of life for a while counts as dead too. `is_over` asks
    the scheduler about another job (None: it does not know). A job that was put back into the queue takes
    over from itself: there is only one of it, whatever a node that was given up may still believe. Raises
    AlreadyClaimedError.
    """
    before = latest_claim(folder)
    if before is not None:
        if not (before.job_id == job_id and before.restart < restart):
            _raise_if_owned(before, silent, is_over)
        if is_finished(folder, before.attempt, spec.processes):
            raise AlreadyClaimedError("it is done")
    claim = Claim(
        folder=folder,
        attempt=before.attempt + 1 if before else 1,
        run_id=spec.run_id,
        job_id=job_id,
        owner=ProcessIdentity.current(),
        time_ns=time.time_ns(),
        restart=restart,
        nodes=tuple(nodes),
    )
    folder.path.mkdir(parents=True, exist_ok=True)
    # Written aside and linked into place: a claim is complete or absent, also over NFS.
    draft = folder.path / f".claim.{os.uname().nodename}.{os.getpid()}"
    try:
        draft.write_bytes(_page(claim))
        os.link(draft, folder.claim(claim.attempt))
    except FileExistsError as error:
        raise AlreadyClaimedError("another job has just claimed it") from error
    finally:
        draft.unlink(missing_ok=True)
    return claim


def _raise_if_owned(claim: Claim, silent: bool, is_over: Callable[[str], bool | None]) -> None:
    alive = claim.owner_alive()
    if alive is None and is_over(claim.job_id):
        return
    if alive:
        raise AlreadyClaimedError(f"it is running in job {claim.job_id} (process {claim.owner.pid})")
    if alive is None and not (silent and claim.heartbeat_age_s() > SILENT_AFTER_S):
        raise AlreadyClaimedError(
            f"attempt {claim.attempt} belongs to a process of {claim.owner.host}, which can't be asked from "
            f"here (last heartbeat {claim.heartbeat_age_s():.0f} s ago). If it is dead: hpcbench retry --lost"
        )
