"""How `hpcbench retry` repeats runs: with the executor of the last submission, without failed nodes, with
more time or memory.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from filelock import FileLock

from hpcbench.errors import InputError
from hpcbench.launch.admission import obstacle_to_run
from hpcbench.launch.executors import Executor, LocalExecutor, last_executor
from hpcbench.launch.machine_resources import this_machine
from hpcbench.launch.slurm.slurm_client import SlurmSnapshot
from hpcbench.launch.slurm.slurm_submission import SlurmExecutor
from hpcbench.runs.claim import latest_claim
from hpcbench.runs.placement import locate_ranks
from hpcbench.runs.results_folder import ResultsFolder, read_spec_file
from hpcbench.runs.run_status import BAD_STATES, RunState, RunStatus, read_status
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import limit_of

# What plain `retry` takes: everything that is neither done nor in a job.
RETRIED_STATES: tuple[RunState, ...] = ("failed", "lost", "interrupted", "cancelled", "pending")
TIME_LIMIT_REASON = "time limit of"
MEMORY_REASONS = ("OUT_OF_MEMORY", "SIGKILL")  # the kernel kills a process that has taken too much


@dataclass(frozen=True, kw_only=True)
class RetryRequest:
    """What the command line asks for. `more` multiplies time or memory where a run had too little."""

    states: tuple[RunState, ...] = RETRIED_STATES
    presume_silent_dead: bool = False
    shared: bool = False
    exclude_failed_nodes: bool = False
    more: float | None = None


@dataclass(frozen=True, kw_only=True)
class RetriedRuns:
    """Runs that are done again, in order, by which jobs; `changes` says what is not as it was before."""

    runs: list[RunStatus]
    job_ids: list[str]
    changes: list[str]
    detaches: bool


def retry_runs(results: ResultsFolder, request: RetryRequest, catalog: Catalog) -> RetriedRuns | None:
    """Start the runs again that are in the states asked for, None where no run is.

    They go where the sweep went the last time. Raises InputError where one of them can't be done.
    """
    with FileLock(results.submission_lock):
        found = (run for run in read_status(results, SlurmSnapshot) if run.state in request.states)
        # Repeats stay interleaved.
        runs = sorted((run for run in found if not run.queued), key=lambda run: (run.repeat, run.name))
        if not runs:
            return None
        execution = _executor_of_last_submission(results, request)
        if isinstance(execution, LocalExecutor):
            _refuse_impossible(results, runs, catalog)
        changes: list[str] = []
        if request.exclude_failed_nodes:
            execution = _without_failed_nodes(execution, results, runs, changes)
        if request.more is not None:
            execution = _with_more_resources(execution, results, runs, request.more, changes)
        jobs = execution.plan([read_spec_file(results.run(run.name, run.repeat)).spec for run in runs])
        return RetriedRuns(
            runs=runs, job_ids=jobs.start(results), changes=changes, detaches=execution.detaches
        )


def _executor_of_last_submission(results: ResultsFolder, request: RetryRequest) -> Executor:
    last = last_executor(results)
    if isinstance(last, SlurmExecutor):
        return replace(last, presume_silent_dead=request.presume_silent_dead)
    return LocalExecutor(shared=request.shared, presume_silent_dead=request.presume_silent_dead)


def _without_failed_nodes(
    execution: Executor, results: ResultsFolder, runs: Sequence[RunStatus], changes: list[str]
) -> Executor:
    """Exclude the nodes on which runs failed or were lost."""
    cluster = _require_slurm_executor(execution, "--exclude-failed-nodes")
    nodes = dict.fromkeys(
        node for run in runs if run.state in BAD_STATES for node in _nodes_of_failure(results, run)
    )
    if not nodes:
        return execution
    changes.append(f"not on {', '.join(nodes)}: runs died there")
    known = cluster.profile.exclude
    excluded = ",".join([*([known] if known else []), *nodes])
    return replace(cluster, profile=replace(cluster.profile, exclude=excluded))


def _nodes_of_failure(results: ResultsFolder, run: RunStatus) -> list[str]:
    """Return the node of the rank that failed; all nodes of the run where it is not known which it was."""
    folder = results.run(run.name, run.repeat)
    claim = latest_claim(folder)
    if claim is None:
        return []
    if run.failed_rank is None or not claim.nodes:
        return list(claim.nodes)
    seat = locate_ranks(read_spec_file(folder).spec)[run.failed_rank]
    return [claim.nodes[seat.node]] if seat.node < len(claim.nodes) else []


def _with_more_resources(
    execution: Executor,
    results: ResultsFolder,
    runs: Sequence[RunStatus],
    factor: float,
    changes: list[str],
) -> Executor:
    """Give more time to runs that ran out of it, and more memory to all where one ran out of that."""
    if not (math.isfinite(factor) and factor > 1):
        raise InputError(f"--more {factor:g}: a factor above 1, such as 2")
    for run in runs:
        if TIME_LIMIT_REASON in run.reason:
            folder = results.run(run.name, run.repeat)
            stored = read_spec_file(folder)
            limit = limit_of(math.ceil(stored.spec.resources.time_s * factor))
            longer = replace(stored.spec, resources=replace(stored.spec.resources, time=limit))
            replace(stored, spec=longer).write(folder)
            changes.append(f"{run.key}: time limit {limit}")
    memory = execution.profile.memory if isinstance(execution, SlurmExecutor) else None
    if memory and any(word in run.reason for run in runs for word in MEMORY_REASONS):
        assert isinstance(execution, SlurmExecutor)
        match = re.fullmatch(r"([0-9]+)([KMGT])", memory)
        assert match is not None, memory
        larger = f"{math.ceil(int(match[1]) * factor)}{match[2]}"
        changes.append(f"memory of a node: {larger}")
        return replace(execution, profile=replace(execution.profile, memory=larger))
    return execution


def _require_slurm_executor(execution: Executor, option: str) -> SlurmExecutor:
    if not isinstance(execution, SlurmExecutor):
        raise InputError(f"{option}: the sweep was done on this machine, which is its only node")
    return execution


def _refuse_impossible(results: ResultsFolder, runs: Sequence[RunStatus], catalog: Catalog) -> None:
    """Raise InputError for the first run that this machine cannot execute."""
    machine = this_machine()
    for run in runs:
        stored = read_spec_file(results.run(run.name, run.repeat))
        data = {stored.spec.dataset: stored.data} if stored.data else {}
        obstacle = obstacle_to_run(stored.spec, machine, catalog, data)
        if obstacle:
            raise InputError(f"{run.key}: it can't run here: {obstacle}; nothing was started")
