"""The claim on an attempt: an atomically created file that gives one process the right to write the
attempt's records and names that process.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hpcbench.errors import HpcbenchError
from hpcbench.runs.process_identity import ProcessIdentity
from hpcbench.runs.record_reader import is_finished
from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec

CLAIM_BYTES = 4096
REASON_CHARACTERS = 800
HEARTBEAT_S = 10.0
# An owner that can't be asked (another machine) counts as silent after so long without a heartbeat.
SILENT_AFTER_S = 120.0


class AlreadyClaimedError(HpcbenchError):
    """Somebody else has the run, or may have it."""


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended, as its owner saw it: `state` is finished, failed, interrupted."""

    state: str
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

    def superseded(self) -> bool:
        """Return whether there is a newer attempt: then this one was given up as dead, and must not go on."""
        return self.folder.claim(self.attempt + 1).exists()

    def beat(self) -> None:
        """Show that the owner lives, to those who can't look at its processes."""
        os.utime(self.folder.claim(self.attempt))

    def close(self, ending: Ending) -> None:
        """Note that the attempt is over. Raises OSError where not even that can be written."""
        page = _padded_json(self._to_json() | {"ending": vars(ending)})
        with self.folder.claim(self.attempt).open("r+b") as file:
            file.write(page)
            file.flush()
            os.fsync(file.fileno())

    def owner_alive(self) -> bool | None:
        """Return whether the attempt is still being worked at; None where that can't be known from here."""
        return False if self.ending else self.owner.alive()

    def silent_s(self) -> float:
        """Return the seconds since the last heartbeat."""
        return time.time() - self.folder.claim(self.attempt).stat().st_mtime

    def _to_json(self) -> dict[str, Any]:
        return {
            "attempt": self.attempt,
            "run_id": self.run_id,
            "job_id": self.job_id,
            "owner": self.owner.to_json(),
            "time_ns": self.time_ns,
            "ending": None,
            "restart": self.restart,
            "nodes": self.nodes,
        }


def _padded_json(values: dict[str, Any]) -> bytes:
    ending = values["ending"]
    if ending:
        ending = ending | {"reason": ending["reason"][:REASON_CHARACTERS]}
    text = json.dumps(values | {"ending": ending}).encode()
    if len(text) >= CLAIM_BYTES:  # a job of hundreds of nodes
        text = json.dumps(values | {"ending": ending, "nodes": values["nodes"][:1]}).encode()
    assert len(text) < CLAIM_BYTES, "a claim fits its page"
    return text.ljust(CLAIM_BYTES - 1) + b"\n"


def latest_claim(folder: RunFolder) -> Claim | None:
    """Return the claim on the newest attempt, None where there was none."""
    attempts = folder.attempts()
    return read_claim(folder, attempts[-1]) if attempts else None


def read_claim(folder: RunFolder, attempt: int) -> Claim:
    """Read a claim. One that was cut off while being created names nobody, so nobody is alive behind it."""
    try:
        values = json.loads(folder.claim(attempt).read_bytes())
    except ValueError:
        nobody = ProcessIdentity(host="", boot_id="", namespace="", pid=0, start_ticks=0)
        ended = Ending(state="lost", reason="its claim was cut off")
        return Claim(
            folder=folder, attempt=attempt, run_id="", job_id="", owner=nobody, time_ns=0, ending=ended
        )
    owner, ending, nodes = values.pop("owner"), values.pop("ending"), values.pop("nodes", ())
    return Claim(
        folder=folder,
        owner=ProcessIdentity(**owner),
        ending=Ending(**ending) if ending else None,
        nodes=tuple(nodes),
        **values,
    )


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
    # Written aside and linked into place: a claim is there whole or not at all, also over NFS.
    draft = folder.path / f".claim.{os.uname().nodename}.{os.getpid()}"
    try:
        draft.write_bytes(_padded_json(claim._to_json()))
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
    if alive is None and not (silent and claim.silent_s() > SILENT_AFTER_S):
        raise AlreadyClaimedError(
            f"attempt {claim.attempt} belongs to a process of {claim.owner.host}, which can't be asked from "
            f"here (last sign of life {claim.silent_s():.0f} s ago). If it is dead: hpcbench retry --lost"
        )
