"""How `hpcbench retry` repeats runs: with the executor of the last submission, without failed nodes, with
more time or memory.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from hpcbench.errors import InputError
from hpcbench.launch.admission import obstacle_to_run
from hpcbench.launch.executors import Executor, LocalExecutor, last_executor
from hpcbench.launch.machine_resources import this_machine
from hpcbench.launch.run_status import RunStatus
from hpcbench.launch.slurm.slurm_profile import SlurmExecutor
from hpcbench.runs.claim import latest_claim
from hpcbench.runs.placement import locate_ranks
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.runs.spec_file import read_spec_file
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import limit_of

FAILED_STATES: tuple[str, ...] = ("failed", "lost")
TIME_LIMIT_REASON = "time limit of"
MEMORY_REASONS = ("OUT_OF_MEMORY", "SIGKILL")  # the kernel's way to end who has taken too much


def executor_of_last_submission(
    results: ResultsFolder, *, shared: bool, presume_silent_dead: bool
) -> Executor:
    """Return how the sweep was submitted the last time."""
    last = last_executor(results)
    if isinstance(last, SlurmExecutor):
        return replace(last, presume_silent_dead=presume_silent_dead)
    return LocalExecutor(shared=shared, presume_silent_dead=presume_silent_dead)


def without_failed_nodes(execution: Executor, results: ResultsFolder, runs: Sequence[RunStatus]) -> Executor:
    """Keep away from the nodes on which runs died."""
    cluster = _require_slurm_executor(execution, "--exclude-failed-nodes")
    nodes = dict.fromkeys(
        node for run in runs if run.state in FAILED_STATES for node in _nodes_of_failure(results, run)
    )
    if not nodes:
        return execution
    print(f"hpcbench: not on {', '.join(nodes)}: runs died there", file=sys.stderr)
    known = cluster.profile.exclude
    excluded = ",".join([*([known] if known else []), *nodes])
    return replace(cluster, profile=replace(cluster.profile, exclude=excluded))


def _nodes_of_failure(results: ResultsFolder, run: RunStatus) -> list[str]:
    """Return the node of the rank that failed; all nodes of the run where nobody knows which it was."""
    folder = results.run(run.name, run.repeat)
    claim = latest_claim(folder)
    if claim is None:
        return []
    if run.failed_rank is None or not claim.nodes:
        return list(claim.nodes)
    seat = locate_ranks(read_spec_file(folder).spec)[run.failed_rank]
    return [claim.nodes[seat.node]] if seat.node < len(claim.nodes) else []


def with_more_resources(
    execution: Executor, results: ResultsFolder, runs: Sequence[RunStatus], factor: float
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
            print(f"hpcbench: {run.key}: time limit {limit}", file=sys.stderr)
    memory = execution.profile.memory if isinstance(execution, SlurmExecutor) else None
    if memory and any(word in run.reason for run in runs for word in MEMORY_REASONS):
        assert isinstance(execution, SlurmExecutor)
        match = re.fullmatch(r"([0-9]+)([KMGT])", memory)
        assert match is not None, memory
        larger = f"{math.ceil(int(match[1]) * factor)}{match[2]}"
        print(f"hpcbench: memory of a node: {larger}", file=sys.stderr)
        return replace(execution, profile=replace(execution.profile, memory=larger))
    return execution


def _require_slurm_executor(execution: Executor, option: str) -> SlurmExecutor:
    if not isinstance(execution, SlurmExecutor):
        raise InputError(f"{option}: the sweep was done on this machine, which is its only node")
    return execution


def refuse_impossible(results: ResultsFolder, runs: Sequence[RunStatus], catalog: Catalog) -> None:
    """Raise InputError for the first run that this machine cannot execute."""
    machine = this_machine()
    for run in runs:
        stored = read_spec_file(results.run(run.name, run.repeat))
        data = {stored.spec.dataset: stored.data} if stored.data else {}
        obstacle = obstacle_to_run(stored.spec, machine, catalog, data)
        if obstacle:
            raise InputError(f"{run.key}: it can't run here: {obstacle}; nothing was started")
