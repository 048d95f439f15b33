"""Can this run go on this machine, with how many threads, and what is to be said about it?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from hpcbench.cluster.machine import Machine
from hpcbench.cluster.seats import largest_share
from hpcbench.config.catalog import Catalog
from hpcbench.config.spec import RunSpec

OVERSUBSCRIBED = "cpu-oversubscribed"
SHARED_MACHINE = "shared-machine"


def why_not(spec: RunSpec, machine: Machine | None, catalog: Catalog, data: Mapping[str, str]) -> str | None:
    """Return why a run can't go here, or None. `data` is where data sets are.

    `machine` None: it goes to nodes that can't be looked at from here; what they lack is found there.
    """
    if machine is None:
        folder = data.get(spec.dataset)
        return _why_no_data(spec, catalog, data) if folder and Path(folder).is_dir() else None
    if spec.resources.nodes > machine.nodes:
        here = "the local executor has this one" if machine.nodes == 1 else f"{machine.nodes} are here"
        return f"it needs {spec.resources.nodes} nodes, and {here}"
    return (
        _why_no_gpu(spec, machine)
        or _why_no_torch(spec, catalog)
        or _why_no_data(spec, catalog, data)
        or _why_no_container(spec, data)
    )


def _why_no_gpu(spec: RunSpec, machine: Machine) -> str | None:
    if spec.device != "cuda":
        return None
    needed, there = largest_share(spec) * spec.devices, len(machine.gpus)
    if needed <= there:
        return None
    has = f"{there} of them" if there else "none"
    return f"it needs {needed} GPU{'s' if needed > 1 else ''}, and this machine has {has}"


def _why_no_torch(spec: RunSpec, catalog: Catalog) -> str | None:
    contained = spec.container.runtime != "none"
    if contained or catalog.strategies[spec.strategy].torch_free or _installed("torch"):
        return None
    return "torch is not installed here: pip install 'hpcbench-strategies[train]'"


@cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _why_no_data(spec: RunSpec, catalog: Catalog, data: Mapping[str, str]) -> str | None:
    if not catalog.datasets[spec.dataset].needs_files or spec.smoke:
        return None  # data of --smoke are generated where it runs
    folder = data.get(spec.dataset)
    if folder is None:
        return f"where is the data set {spec.dataset}? Say --data DIR, or set HPCBENCH_DATA"
    if not Path(folder).is_dir():
        return f"the data set {spec.dataset} is not there: no folder {folder}"
    return _problem_of(spec.dataset, folder, spec.dataset_options.get("corrupt"))


@cache
def _problem_of(name: str, folder: str, corrupt: str | None) -> str | None:
    from hpcbench.training.data.check import find_problem  # numpy: sweeps without files need not wait for it

    return find_problem(name, folder, {"corrupt": corrupt})


def _why_no_container(spec: RunSpec, data: Mapping[str, str]) -> str | None:
    if spec.container.runtime == "none":
        return None
    from hpcbench.cluster.enclosure import why_not_inside  # numpy and more, which others need not wait for

    return why_not_inside(spec, data.get(spec.dataset))


def cores_shared_by(runs: Iterable[RunSpec]) -> dict[str, int]:
    """Return, for each kind of device, among how many of them a run of this sweep splits a machine's cores.

    That is the largest number of devices of a machine that any run of the kind uses: a run on fewer devices
    leaves cores idle, as it would leave GPUs idle (docs/decisions/0005-threads-per-rank.md).
    """
    shares: dict[str, int] = {}
    for spec in runs:
        shares[spec.device] = max(shares.get(spec.device, 1), largest_share(spec) * spec.devices)
    return shares


def threads_per_rank(machine: Machine, shared_by: int) -> int:
    """Return the compute threads of each rank."""
    return max(1, machine.cores // shared_by)


def warnings_of(spec: RunSpec, machine: Machine, *, shared: bool) -> list[str]:
    """Return what the record of a run here has to carry."""
    found = [OVERSUBSCRIBED] if oversubscribed(spec, machine) else []
    return [*found, SHARED_MACHINE] if shared else found


def oversubscribed(spec: RunSpec, machine: Machine) -> bool:
    """Return whether a run on CPUs has more processes than there are cores."""
    return spec.device == "cpu" and largest_share(spec) > machine.cores
