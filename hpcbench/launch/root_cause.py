"""How an attempt ended and why: of several failed ranks, the failure that caused the others."""

from __future__ import annotations

import logging
import signal
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from hpcbench.launch.rank_processes import PRIMARY_SIGNALS, RankExit
from hpcbench.runs.claim import Claim, Ending
from hpcbench.runs.events import Interrupted, RunFailed
from hpcbench.runs.record_reader import RecordLine, has_run_finished, last_lines, last_log_lines
from hpcbench.runs.record_writer import EventWriter
from hpcbench.runs.results_folder import FIRST_NODE
from hpcbench.sweep.run_spec import RunSpec

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class _RankFailure:
    """A rank that did not finish, and when that began."""

    exit: RankExit
    time_ns: int
    own: RecordLine | None = None  # its run_failed
    log: list[str] = field(default_factory=list)

    def order(self) -> tuple[bool, bool, int]:
        """Sort the cause to the front: a limit, then what no peer can cause, then the earliest."""
        limited = self.own is not None and self.own.get("limit") is not None
        own_cause = self.exit.signal in PRIMARY_SIGNALS or self.exit.lost is not None
        return not limited, not own_cause, self.time_ns


def has_finished(claim: Claim, ended: RankExit) -> bool:
    """Return whether a rank has done all of its work: its record says so, and nothing failed afterwards."""
    return ended.code == 0 and has_run_finished(claim.folder.events(claim.attempt, ended.rank))


def find_root_cause(
    claim: Claim, exits: Mapping[int, RankExit], killed: Collection[int], decided: Ending | None
) -> tuple[Ending, Interrupted | RunFailed | None]:
    """Return how the attempt ended, and the event that says so in its record, None where it has finished.

    `killed` are ranks that the supervisor had to kill, `decided` is set where it ended the run by itself.
    """
    if exits and all(has_finished(claim, ended) for ended in exits.values()):
        return Ending(state="finished"), None
    if decided is None:
        event = _failure_event(_earliest_cause(claim, exits, killed))
        return Ending(state="failed", reason=event.reason), event
    if decided.state == "interrupted":
        return decided, Interrupted(reason=decided.reason)
    return decided, RunFailed(reason=decided.reason, last_lines=_log_tail(claim, 0))


def record_ending(spec: RunSpec, claim: Claim, ending: Ending, event: Interrupted | RunFailed) -> Ending:
    """Write the supervisor's event, after its telemetry; the ending says so where that is not possible."""
    path = claim.folder.supervisor_events(claim.attempt, FIRST_NODE)
    try:
        with EventWriter(path, run_id=spec.run_id, attempt=claim.attempt, rank=None, go_on=True) as writer:
            writer.write(event)
    except OSError as error:
        reason = f"the record could not be written ({error.strerror}); {ending.reason}"
        logger.error("%s: %s", spec.name, reason)
        return replace(ending, reason=reason)
    return ending


def describe_stop_signal(number: signal.Signals) -> str:
    """Name a signal, with what it usually means to a job."""
    meanings = {
        signal.SIGINT: "Ctrl-C",
        signal.SIGTERM: "cancelled",
        signal.SIGHUP: "its terminal was closed",
    }
    meaning = meanings.get(number)
    return f"{number.name} ({meaning})" if meaning else number.name


def _earliest_cause(claim: Claim, exits: Mapping[int, RankExit], killed: Collection[int]) -> _RankFailure:
    failures = []
    for rank, ended in exits.items():
        own = _last_event(claim, rank, RunFailed.kind)
        if own is None and (
            rank in killed or has_finished(claim, ended) or _stopped_on_request(claim, ended)
        ):
            continue
        failures.append(
            _RankFailure(
                exit=ended,
                time_ns=own["time_ns"] if own else ended.time_ns,
                own=own,
                log=_log_tail(claim, rank),
            )
        )
    if not failures:  # a rank was asked to stop, and not by this supervisor
        ended = min(exits.values(), key=lambda ended: ended.time_ns)
        return _RankFailure(exit=ended, time_ns=ended.time_ns, log=_log_tail(claim, ended.rank))
    return min(failures, key=_RankFailure.order)


def _stopped_on_request(claim: Claim, ended: RankExit) -> bool:
    """Return whether a rank only stopped because it was asked to, after the first had failed."""
    return _last_event(claim, ended.rank, Interrupted.kind) is not None or ended.signal is signal.SIGTERM


def _failure_event(failure: _RankFailure) -> RunFailed:
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


def _last_event(claim: Claim, rank: int, kind: str) -> RecordLine | None:
    lines = last_lines(claim.folder.events(claim.attempt, rank))
    return next((line for line in reversed(lines) if line["event"] == kind), None)


def _log_tail(claim: Claim, rank: int) -> list[str]:
    return last_log_lines(claim.folder.log(claim.attempt, rank))
