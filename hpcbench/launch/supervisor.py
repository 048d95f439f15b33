"""The supervisor of a run on a node: starts the ranks and ensures that all of them end together."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from hpcbench.launch import root_cause
from hpcbench.launch.node_telemetry import NodeTelemetry
from hpcbench.launch.rank_processes import (
    LocalRanks,
    RankExit,
    RankRuntime,
    RankSet,
    RankStartError,
    SupervisorInbox,
)
from hpcbench.runs.claim import HEARTBEAT_S, Claim, Ending
from hpcbench.runs.placement import Placement, locate_ranks, without_launcher_variables
from hpcbench.sweep.run_spec import RunSpec

logger = logging.getLogger(__name__)

# What is left of the five seconds in which the peers of a failed rank have to be gone, after the killing.
GRACE_S = 4.0

THREAD_VARIABLES = (
    "OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS", "BLIS_NUM_THREADS",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A claimed attempt at a run, and what its ranks are given. `environment` is that of the submitter.

    `runtime` starts the ranks of this node, `cores` are those of the ranks that are bound to some, `node` is
    this supervisor's, `address` where rank 0 is found from here, `grace_s` the time that ranks have to stop.
    """

    spec: RunSpec
    claim: Claim
    threads: int
    data: str | None
    warnings: list[str]
    environment: Mapping[str, str]
    runtime: Callable[[], RankRuntime]
    cores: Mapping[int, list[int]] = field(default_factory=dict)
    node: int = 0
    address: str = "127.0.0.1"
    grace_s: float = GRACE_S


class StopCause(Enum):
    """Why a run's ranks were ended."""

    RANK = "a rank ended without having finished"
    STOP = "the supervisor was asked to stop"
    TIME = "the time limit was reached"
    SUPERSEDED = "another job has taken the run over"


@dataclass
class SupervisionState:
    """What has happened so far. `killed` are ranks that did not end when they were asked to.

    `refused` says why no rank could be started.
    """

    exits: dict[int, RankExit] = field(default_factory=dict)
    killed: frozenset[int] = frozenset()
    cause: StopCause | None = None
    stopped_by: signal.Signals | None = None
    refused: str | None = None


def supervise(task: Assignment, inbox: SupervisorInbox, ranks: RankSet | None = None) -> Ending:
    """Do an attempt at a run, from the start of its ranks to its ending in the claim.

    `ranks` are those of all nodes; without it, all are started here.
    """
    ranks = ranks or local_ranks(task, inbox.messages.put)
    try:
        for rank in range(task.spec.processes):
            log = task.claim.folder.log(task.claim.attempt, rank)
            ranks.start(rank, rank_environment(task, rank), log)
        ranks.watch()
        course = _wait_for_ranks(task, ranks, inbox)
    except RankStartError as error:
        course = SupervisionState(refused=str(error))
    finally:
        ranks.finish()
    ending, event = root_cause.find_root_cause(
        task.claim, course.exits, course.killed, _decided_ending(task, course)
    )
    if event is not None:
        ending = root_cause.record_ending(task.spec, task.claim, ending, event)
    ending = replace(ending, time_ns=time.time_ns())
    _close_claim(task, ending)
    return ending


def local_ranks(task: Assignment, report: Callable[[RankExit], None]) -> LocalRanks:
    """Return what starts ranks on this node."""
    claim = task.claim
    record = claim.folder.supervisor_events(claim.attempt, task.node)
    telemetry = NodeTelemetry(task.spec, record, claim.attempt, claim.folder.path, task.environment)
    return LocalRanks(report, task.runtime, telemetry)


def rank_environment(task: Assignment, rank: int) -> dict[str, str]:
    """Return the submitter's environment, without other launchers' variables, with the rank's placement."""
    location = locate_ranks(task.spec)[rank]
    placement = Placement(
        run_folder=str(task.claim.folder.path),
        attempt=task.claim.attempt,
        rank=rank,
        processes=task.spec.processes,
        local_rank=location.local_rank,
        node=location.node,
        nodes=task.spec.resources.nodes,
        address="127.0.0.1" if rank == 0 else task.address,
        threads=task.threads,
        cores=task.cores.get(rank),
        data=task.data,
        process_start_ns=time.time_ns(),
        warnings=task.warnings,
    )
    return {
        **without_launcher_variables(task.environment),
        **thread_environment(task.threads),
        "PYTHONUNBUFFERED": "1",  # what a killed rank printed last has to be in its log
        **placement.to_environment(),
    }


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables by which the numeric libraries are limited to so many threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def _wait_for_ranks(task: Assignment, ranks: RankSet, inbox: SupervisorInbox) -> SupervisionState:
    """Wait until every rank has ended, and end all of them as soon as there is a cause."""
    course = SupervisionState()
    deadline = time.monotonic() + task.spec.resources.time_s
    while len(course.exits) < task.spec.processes:
        message = inbox.next_message(min(HEARTBEAT_S, deadline - time.monotonic()))
        task.claim.heartbeat()
        if isinstance(message, RankExit):
            course.exits[message.rank] = message
        cause = _stop_cause(task, message, deadline)
        if course.cause is None and cause is not None:
            course.cause = cause
            course.stopped_by = message if isinstance(message, signal.Signals) else None
            ranks.send_signal(_living_ranks(task, course), signal.SIGTERM)
            deadline = time.monotonic() + (task.grace_s if cause is StopCause.STOP else GRACE_S)
        elif cause in (StopCause.TIME, StopCause.STOP, StopCause.SUPERSEDED):
            # They had their time, or the request has come for the second time.
            course.killed |= frozenset(_living_ranks(task, course))
            ranks.kill()
            deadline = time.monotonic() + GRACE_S
    return course


def _stop_cause(
    task: Assignment, message: RankExit | signal.Signals | None, deadline: float
) -> StopCause | None:
    if isinstance(message, RankExit):
        return None if root_cause.has_finished(task.claim, message) else StopCause.RANK
    if message is not None:
        return StopCause.STOP
    if task.claim.is_superseded():
        return StopCause.SUPERSEDED
    return StopCause.TIME if time.monotonic() >= deadline else None


def _living_ranks(task: Assignment, course: SupervisionState) -> list[int]:
    return [rank for rank in range(task.spec.processes) if rank not in course.exits]


def _decided_ending(task: Assignment, course: SupervisionState) -> Ending | None:
    """Return how the run ended if that was decided here and not by a rank."""
    if course.refused:
        return Ending(state="failed", reason=course.refused)
    if course.cause is StopCause.STOP:
        assert course.stopped_by is not None
        return Ending(
            state="interrupted", reason=f"stopped by {root_cause.describe_stop_signal(course.stopped_by)}"
        )
    if course.cause is StopCause.SUPERSEDED:
        return Ending(state="interrupted", reason="a newer attempt has taken the run over")
    if course.cause is StopCause.TIME:
        return Ending(state="failed", reason=f"time limit of {task.spec.resources.time} reached")
    return None


def _close_claim(task: Assignment, ending: Ending) -> None:
    try:
        task.claim.finish(ending)
    except OSError as error:
        # Nothing can be written any more, except to the job's log; `status` finds the owner dead or the
        # records unfinished.
        logger.error("%s: %s; its end could not be recorded: %s", task.spec.name, ending.reason, error)
