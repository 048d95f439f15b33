"""The queue of this machine: one job at a time across all submitters and users, so that no run disturbs
another.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter

from hpcbench.errors import InputError
from hpcbench.runs.claim import ProcessIdentity

QUEUE_VARIABLE = "HPCBENCH_QUEUE_DIR"
# The same for every user, whatever their TMPDIR says.
DEFAULT_QUEUE_FOLDER = Path("/tmp/hpcbench-queue")
QUEUE_POLL_S = 0.25


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """A job in the queue, waiting or running. `since_ns` is when it joined."""

    path: Path
    since_ns: int
    job_id: str
    results: str
    shared: bool
    owner: ProcessIdentity

    def alive(self) -> bool:
        """Return whether its process lives; one that can't be asked counts as living."""
        return self.owner.alive() is not False


TICKET_JSON = TypeAdapter(Ticket)


def queue_folder() -> Path:
    """Return where the queue of this machine is, made for all users."""
    folder = Path(os.environ.get(QUEUE_VARIABLE) or DEFAULT_QUEUE_FOLDER)
    try:
        folder.mkdir(parents=True)
        folder.chmod(0o1777)  # whoever comes first makes it for all; mkdir's mode is cut by the umask
    except FileExistsError:
        pass
    except OSError as error:
        raise InputError(f"{QUEUE_VARIABLE}: no queue can be kept in {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{QUEUE_VARIABLE}: no queue can be kept in {folder}: not writable for this user")
    return folder


def existing_queue_folder() -> Path | None:
    """Return where the queue of this machine is, None where no job has been queued yet."""
    folder = Path(os.environ.get(QUEUE_VARIABLE) or DEFAULT_QUEUE_FOLDER)
    return folder if folder.is_dir() else None


@contextmanager
def wait_for_turn(
    job_id: str, results: Path, *, shared: bool, folder: Path, stopped: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Wait for this job's turn and hold it; gives False if `stopped` came first."""
    ticket = _create_ticket(job_id, results, shared, folder)
    lock = _open_lock(folder)
    try:
        yield _wait_for_lock(lock, ticket, stopped)
    finally:
        os.close(lock)  # releases it
        ticket.path.unlink(missing_ok=True)


def _wait_for_lock(lock: int, ticket: Ticket, stopped: Callable[[], bool]) -> bool:
    kind = fcntl.LOCK_SH if ticket.shared else fcntl.LOCK_EX
    while not stopped():
        if not _tickets_ahead(ticket) and _try_lock(lock, kind):
            return True
        time.sleep(QUEUE_POLL_S)
    return False


def _try_lock(lock: int, kind: int) -> bool:
    try:
        fcntl.flock(lock, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _tickets_ahead(ticket: Ticket) -> list[Ticket]:
    """List the living jobs that joined earlier; those that share let others who share pass."""
    return [
        other
        for other in read_tickets(ticket.path.parent)
        if (other.since_ns, other.job_id) < (ticket.since_ns, ticket.job_id)
        and not (other.shared and ticket.shared)
        and other.alive()
    ]


def read_tickets(folder: Path) -> list[Ticket]:
    """List who is in the queue, first come first; the dead may be among them."""
    found = []
    for path in folder.glob("*.ticket"):
        try:
            found.append(TICKET_JSON.validate_python({**json.loads(path.read_bytes()), "path": path}))
        except (OSError, ValueError):
            continue  # it has just left
    return sorted(found, key=lambda ticket: (ticket.since_ns, ticket.job_id))


def _create_ticket(job_id: str, results: Path, shared: bool, folder: Path) -> Ticket:
    _remove_stale_tickets(folder)
    owner = ProcessIdentity.current()
    ticket = Ticket(
        path=folder / f"{owner.host}.{job_id}.ticket",
        since_ns=time.time_ns(),
        job_id=job_id,
        results=str(results),
        shared=shared,
        owner=owner,
    )
    draft = ticket.path.with_suffix(".draft")
    draft.write_bytes(TICKET_JSON.dump_json(ticket, exclude={"path"}))
    draft.chmod(0o644)
    draft.rename(ticket.path)
    return ticket


def _remove_stale_tickets(folder: Path) -> None:
    for ticket in read_tickets(folder):
        if not ticket.alive():
            try:
                ticket.path.unlink(missing_ok=True)
            except PermissionError:
                continue  # another user's; it is passed over anyway


def _open_lock(folder: Path) -> int:
    """Open the lock file that all users share.

    Without O_CREAT where it exists: kernels with fs.protected_regular refuse that in a folder like /tmp for
    files of other users. Reading is enough to lock.
    """
    path = folder / "lock"
    while True:
        try:
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            try:
                made = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY | os.O_CLOEXEC, 0o644)
            except FileExistsError:
                continue
            os.fchmod(made, 0o644)
            return made


def is_machine_busy() -> bool:
    """Return whether a job has its turn on this machine, or waits for it."""
    folder = existing_queue_folder()
    return folder is not None and any(ticket.alive() for ticket in read_tickets(folder))
