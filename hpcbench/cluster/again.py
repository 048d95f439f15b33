"""How runs are done again: where they went the last time, away from what ended them."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from dataclasses import replace

from hpcbench.cluster.claim import latest_claim
from hpcbench.cluster.executor import Execution, OnCluster, OnThisMachine, last_execution
from hpcbench.cluster.seats import seats_of
from hpcbench.cluster.status import RunStatus
from hpcbench.cluster.stored import read_stored
from hpcbench.config.spec import limit_of
from hpcbench.errors import InputError
from hpcbench.records.layout import ResultsFolder

DIED: tuple[str, ...] = ("failed", "lost")
OUT_OF_TIME = "time limit of"
OUT_OF_MEMORY = ("OUT_OF_MEMORY", "SIGKILL")  # the kernel's way to end who has taken too much


def like_the_last_time(results: ResultsFolder, *, shared: bool, presume_silent_dead: bool) -> Execution:
    """Return how the sweep was submitted the last time."""
    last = last_execution(results)
    if isinstance(last, OnCluster):
        return replace(last, presume_silent_dead=presume_silent_dead)
    return OnThisMachine(shared=shared, presume_silent_dead=presume_silent_dead)


def without_failed_nodes(
    execution: Execution, results: ResultsFolder, runs: Sequence[RunStatus]
) -> Execution:
    """Keep away from the nodes on which runs died."""
    cluster = _on_cluster(execution, "--exclude-failed-nodes")
    nodes = dict.fromkeys(node for run in runs if run.state in DIED for node in _guilty(results, run))
    if not nodes:
        return execution
    print(f"hpcbench: not on {', '.join(nodes)}: runs died there", file=sys.stderr)
    known = cluster.profile.exclude
    excluded = ",".join([*([known] if known else []), *nodes])
    return replace(cluster, profile=replace(cluster.profile, exclude=excluded))


def _guilty(results: ResultsFolder, run: RunStatus) -> list[str]:
    """Return the node of the rank that failed; all nodes of the run where nobody knows which it was."""
    folder = results.run(run.name, run.repeat)
    claim = latest_claim(folder)
    if claim is None:
        return []
    if run.failed_rank is None or not claim.nodes:
        return list(claim.nodes)
    seat = seats_of(read_stored(folder).spec)[run.failed_rank]
    return [claim.nodes[seat.node]] if seat.node < len(claim.nodes) else []


def with_more(
    execution: Execution, results: ResultsFolder, runs: Sequence[RunStatus], factor: float
) -> Execution:
    """Give more time to runs that ran out of it, and more memory to all where one ran out of that."""
    if not (math.isfinite(factor) and factor > 1):
        raise InputError(f"--more {factor:g}: a factor above 1, such as 2")
    for run in runs:
        if OUT_OF_TIME in run.reason:
            folder = results.run(run.name, run.repeat)
            stored = read_stored(folder)
            limit = limit_of(math.ceil(stored.spec.resources.time_s * factor))
            longer = replace(stored.spec, resources=replace(stored.spec.resources, time=limit))
            replace(stored, spec=longer).write(folder)
            print(f"hpcbench: {run.key}: time limit {limit}", file=sys.stderr)
    memory = execution.profile.memory if isinstance(execution, OnCluster) else None
    if memory and any(word in run.reason for run in runs for word in OUT_OF_MEMORY):
        assert isinstance(execution, OnCluster)
        match = re.fullmatch(r"([0-9]+)([KMGT])", memory)
        assert match is not None, memory
        larger = f"{math.ceil(int(match[1]) * factor)}{match[2]}"
        print(f"hpcbench: memory of a node: {larger}", file=sys.stderr)
        return replace(execution, profile=replace(execution.profile, memory=larger))
    return execution


def _on_cluster(execution: Execution, option: str) -> OnCluster:
    if not isinstance(execution, OnCluster):
        raise InputError(f"{option}: the sweep was done on this machine, which is its only node")
    return execution
