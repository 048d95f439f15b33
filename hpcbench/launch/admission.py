"""Whether a run can be done here, with how many threads and warnings, and what a submission does with each
run of a sweep.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any

from hpcbench.launch.machine_resources import Machine
from hpcbench.launch.slurm.slurm_client import SlurmSnapshot
from hpcbench.runs.jobs import LivingJobs, read_jobs
from hpcbench.runs.ledger import run_key
from hpcbench.runs.placement import most_ranks_per_node
from hpcbench.runs.results_folder import ResultsFolder, read_spec_json
from hpcbench.runs.run_status import RunStatus, run_status
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import RunSpec, flatten_fields

OVERSUBSCRIBED = "cpu-oversubscribed"
SHARED_MACHINE = "shared-machine"


def obstacle_to_run(
    spec: RunSpec, machine: Machine | None, catalog: Catalog, data: Mapping[str, str]
) -> str | None:
    """Return why a run can't go here, or None. `data` is where data sets are.

    `machine` None: it goes to nodes that can't be looked at from here; what they lack is found there.
    """
    if machine is None:
        folder = data.get(spec.dataset)
        return _data_obstacle(spec, catalog, data) if folder and Path(folder).is_dir() else None
    if spec.resources.nodes > machine.nodes:
        here = "the local executor has this one" if machine.nodes == 1 else f"{machine.nodes} are here"
        return f"it needs {spec.resources.nodes} nodes, and {here}"
    return (
        _gpu_obstacle(spec, machine)
        or _torch_obstacle(spec, catalog)
        or _data_obstacle(spec, catalog, data)
        or _container_obstacle(spec, data)
    )


def _gpu_obstacle(spec: RunSpec, machine: Machine) -> str | None:
    if spec.device != "cuda":
        return None
    needed, there = most_ranks_per_node(spec) * spec.devices, len(machine.gpus)
    if needed <= there:
        return None
    has = f"{there} of them" if there else "none"
    return f"it needs {needed} GPU{'s' if needed > 1 else ''}, and this machine has {has}"


def _torch_obstacle(spec: RunSpec, catalog: Catalog) -> str | None:
    contained = spec.container.runtime != "none"
    if contained or catalog.strategies[spec.strategy].torch_free or _is_installed("torch"):
        return None
    return "torch is not installed here: pip install 'hpcbench-strategies[train]'"


@cache
def _is_installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _data_obstacle(spec: RunSpec, catalog: Catalog, data: Mapping[str, str]) -> str | None:
    if not catalog.datasets[spec.dataset].needs_files or spec.smoke:
        return None  # data of --smoke are generated where it runs
    folder = data.get(spec.dataset)
    if folder is None:
        return f"where is the data set {spec.dataset}? Use --data DIR, or set HPCBENCH_DATA"
    if not Path(folder).is_dir():
        return f"the data set {spec.dataset} is not there: no folder {folder}"
    return _data_problem(spec.dataset, folder, spec.dataset_options.get("corrupt"))


@cache
def _data_problem(name: str, folder: str, corrupt: str | None) -> str | None:
    from hpcbench.tasks.data_check import find_data_problem

    return find_data_problem(name, folder, {"corrupt": corrupt})


def _container_obstacle(spec: RunSpec, data: Mapping[str, str]) -> str | None:
    if spec.container.runtime == "none":
        return None
    from hpcbench.launch.containers.rank_containers import container_obstacle

    return container_obstacle(spec, data.get(spec.dataset))


def devices_sharing_cores(runs: Iterable[RunSpec]) -> dict[str, int]:
    """Return, for each kind of device, among how many of them a run of this sweep splits a machine's cores.

    That is the largest number of devices of a machine that any run of the kind uses: a run on fewer devices
    leaves cores idle, as it would leave GPUs idle (docs/decisions/0005-threads-per-rank.md).
    """
    shares: dict[str, int] = {}
    for spec in runs:
        shares[spec.device] = max(shares.get(spec.device, 1), most_ranks_per_node(spec) * spec.devices)
    return shares


def threads_per_rank(machine: Machine, shared_by: int) -> int:
    """Return the compute threads of each rank."""
    return max(1, machine.cores // shared_by)


def warnings_of(spec: RunSpec, machine: Machine, *, shared: bool) -> list[str]:
    """Return what the record of a run here has to carry."""
    found = [OVERSUBSCRIBED] if is_oversubscribed(spec, machine) else []
    return [*found, SHARED_MACHINE] if shared else found


def is_oversubscribed(spec: RunSpec, machine: Machine) -> bool:
    """Return whether a run on CPUs has more processes than there are cores."""
    return spec.device == "cpu" and most_ranks_per_node(spec) > machine.cores


class Action(Enum):
    """What happens to a run."""

    RUN = "it is done (again)"
    DONE = "it has been done"
    BUSY = "a job has it"
    IMPOSSIBLE = "it can't run here"
    CONFLICT = "another run of its name has results here"

    @property
    def label(self) -> str:
        """What users see, beside the reason."""
        return {Action.RUN: "run", Action.CONFLICT: "conflict"}.get(self, "skipped")


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What happens to one repeat of a run. `status` is None for a run that has no folder yet."""

    spec: RunSpec
    action: Action
    reason: str = ""
    status: RunStatus | None = None

    @property
    def key(self) -> str:
        """How the ledger names the run."""
        return run_key(self.spec.name, self.spec.repeat)

    def to_json(self) -> dict[str, Any]:
        """Return a line of `--dry-run --json`."""
        return {
            "name": self.spec.name,
            "repeat": self.spec.repeat,
            "run_id": self.spec.run_id,
            "strategy": self.spec.strategy,
            "ranks": self.spec.ranks,
            "resources": self.spec.to_json()["resources"] | {"device": self.spec.device},
            "action": self.action.label,
            "reason": self.reason,
        }


def decide(
    runs: Sequence[RunSpec],
    data: Mapping[str, str],
    results: ResultsFolder,
    machine: Machine | None,
    catalog: Catalog,
) -> list[Decision]:
    """Decide for each run, in the given order; `machine` is None where they go to the nodes of a cluster."""
    jobs = read_jobs(results, SlurmSnapshot)
    living = LivingJobs(jobs)
    decisions = []
    for spec in runs:
        folder = results.run(spec.name, spec.repeat)
        if not folder.spec.exists():
            decisions.append(_decide_new(spec, data, machine, catalog))
            continue
        status = run_status(spec.name, spec.repeat, folder, jobs, living)
        if status.run_id != spec.run_id:
            reason = _spec_difference(spec, read_spec_json(folder)["spec"])
            decisions.append(Decision(spec=spec, action=Action.CONFLICT, reason=reason, status=status))
        else:
            decisions.append(_decide_known(spec, status) or _decide_new(spec, data, machine, catalog, status))
    return decisions


def _decide_known(spec: RunSpec, status: RunStatus) -> Decision | None:
    """Decide for a run that has been here before; None where it is to be done (again)."""
    if status.state == "done":
        reason = f"done: out of {status.limit} is its result" if status.limit else "done"
        return Decision(spec=spec, action=Action.DONE, reason=reason, status=status)
    if status.state == "running" or status.queued:
        doing = "running" if status.state == "running" else "queued"
        return Decision(
            spec=spec, action=Action.BUSY, reason=f"{doing} in job {status.job_id}", status=status
        )
    return None


def _decide_new(
    spec: RunSpec,
    data: Mapping[str, str],
    machine: Machine | None,
    catalog: Catalog,
    status: RunStatus | None = None,
) -> Decision:
    obstacle = obstacle_to_run(spec, machine, catalog, data)
    if obstacle:
        return Decision(spec=spec, action=Action.IMPOSSIBLE, reason=obstacle, status=status)
    notes = []
    if status and status.state != "pending":
        notes.append(f"again: {status.state}{f', {status.reason}' if status.reason else ''}")
    if machine is not None and is_oversubscribed(spec, machine):
        notes.append(f"{spec.processes} processes on {machine.cores} cores: one thread each, a warning")
    return Decision(spec=spec, action=Action.RUN, reason="; ".join(notes), status=status)


def _spec_difference(spec: RunSpec, stored: Mapping[str, Any]) -> str:
    """Name what differs between a run and the one of its name that has results already."""
    new, old = flatten_fields(spec.to_json()), flatten_fields(stored)
    differing = [key for key in sorted(new.keys() | old.keys()) if new.get(key) != old.get(key)]
    shown = [f"{key}: {old.get(key)!r} there, {new.get(key)!r} here" for key in differing[:3]]
    more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
    return "; ".join(shown) + more
