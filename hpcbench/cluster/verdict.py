"""How an attempt ended and whose fault it was: of many errors, the one that the others follow from."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from hpcbench.cluster.claim import Claim, Ending
from hpcbench.cluster.ranks import OWN_CAUSE, Exit
from hpcbench.config.spec import RunSpec
from hpcbench.records.events import Interrupted, RunFailed
from hpcbench.records.tail import Line, has_run_finished, last_lines
from hpcbench.records.writer import EventWriter

LAST_LINES = 15
LOG_TAIL_BYTES = 16 * 1024
NODE = 0


@dataclass(frozen=True, kw_only=True)
class _Failure:
    """A rank that did not finish, and when that began."""

    exit: Exit
    time_ns: int
    own: Line | None = None  # its run_failed
    log: list[str] = field(default_factory=list)

    def order(self) -> tuple[bool, bool, int]:
        """Sort the cause to the front: a limit, then what no peer can bring about, then the earliest."""
        limited = self.own is not None and self.own.get("limit") is not None
        own_cause = self.exit.signal in OWN_CAUSE or self.exit.lost is not None
        return not limited, not own_cause, self.time_ns


def has_finished(claim: Claim, ended: Exit) -> bool:
    """Return whether a rank has done all of its work: it says so, and nothing went wrong afterwards."""
    return ended.code == 0 and has_run_finished(claim.folder.events(claim.attempt, ended.rank))


def conclude(
    spec: RunSpec, claim: Claim, exits: Mapping[int, Exit], killed: Collection[int], told: Ending | None
) -> Ending:
    """Decide how the attempt ended and write that down.

    `killed` are ranks that the supervisor had to kill, `told` is set where it ended the run by itself.
    """
    if exits and all(has_finished(claim, ended) for ended in exits.values()):
        return Ending(state="finished", time_ns=time.time_ns())
    event: Interrupted | RunFailed
    if told is None:
        event = _describe(_first_failure(claim, exits, killed))
        ending = Ending(state="failed", reason=event.reason)
    elif told.state == "interrupted":
        event, ending = Interrupted(reason=told.reason), told
    else:
        event, ending = RunFailed(reason=told.reason, last_lines=_log_tail(claim, 0)), told
    full_disk = _record(spec, claim, event)
    if full_disk:
        ending = replace(ending, reason=f"{full_disk}; {ending.reason}")
        print(f"{spec.name}: {ending.reason}", file=sys.stderr)
    return replace(ending, time_ns=time.time_ns())


def describe_stop(number: signal.Signals) -> str:
    """Say what a signal to the job usually means."""
    meanings = {
        signal.SIGINT: "Ctrl-C",
        signal.SIGTERM: "cancelled",
        signal.SIGHUP: "its terminal was closed",
    }
    meaning = meanings.get(number)
    return f"{number.name} ({meaning})" if meaning else number.name


def _first_failure(claim: Claim, exits: Mapping[int, Exit], killed: Collection[int]) -> _Failure:
    failures = []
    for rank, ended in exits.items():
        own = _last_event(claim, rank, RunFailed.kind)
        if own is None and (rank in killed or has_finished(claim, ended) or _obeyed(claim, ended)):
            continue
        failures.append(
            _Failure(
                exit=ended,
                time_ns=own["time_ns"] if own else ended.time_ns,
                own=own,
                log=_log_tail(claim, rank),
            )
        )
    if not failures:  # somebody has told a rank to stop, and not through us
        ended = min(exits.values(), key=lambda each: each.time_ns)
        return _Failure(exit=ended, time_ns=ended.time_ns, log=_log_tail(claim, ended.rank))
    return min(failures, key=_Failure.order)


def _obeyed(claim: Claim, ended: Exit) -> bool:
    """Return whether a rank only did what it was told after the first had failed."""
    return _last_event(claim, ended.rank, Interrupted.kind) is not None or ended.signal is signal.SIGTERM


def _describe(failure: _Failure) -> RunFailed:
    ended, own = failure.exit, failure.own or {}
    if own:
        reason = str(own["reason"])
    elif ended.code == 0:
        reason = "left with exit status 0 before it had finished"
    else:
        reason = str(ended)
    return RunFailed(
        reason=f"rank {ended.rank}: {reason}",
        phase=own.get("phase"),
        limit=own.get("limit"),
        failed_rank=ended.rank,
        exit_code=ended.code,
        signal=ended.signal.name if ended.signal else None,
        last_lines=failure.log,
    )


def _record(spec: RunSpec, claim: Claim, event: Interrupted | RunFailed) -> str | None:
    """Write the supervisor's word, after its telemetry; returns what is wrong where it can't be written."""
    path = claim.folder.supervisor_events(claim.attempt, NODE)
    try:
        with EventWriter(path, run_id=spec.run_id, attempt=claim.attempt, rank=None, go_on=True) as writer:
            writer.write(event)
    except OSError as error:
        return f"the record could not be written ({error.strerror})"
    return None


def _last_event(claim: Claim, rank: int, kind: str) -> Line | None:
    lines = last_lines(claim.folder.events(claim.attempt, rank))
    return next((line for line in reversed(lines) if line["event"] == kind), None)


def _log_tail(claim: Claim, rank: int) -> list[str]:
    return tail_of_text(claim.folder.log(claim.attempt, rank))


def tail_of_text(path: Path) -> list[str]:
    """Return the last lines of what a process has printed."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LAST_LINES:]
