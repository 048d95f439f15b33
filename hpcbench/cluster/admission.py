"""Can this run go on this machine, with how many threads, and what is to be said about it?"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from hpcbench.cluster.machine import Machine
from hpcbench.config.catalog import Catalog
from hpcbench.config.spec import RunSpec

OVERSUBSCRIBED = "cpu-oversubscribed"
SHARED_MACHINE = "shared-machine"


def why_not(spec: RunSpec, machine: Machine, catalog: Catalog, data: Mapping[str, str]) -> str | None:
    """Return why a run can't go here, or None. `data` is where data sets are."""
    if spec.resources.nodes > 1:
        return f"it needs {spec.resources.nodes} nodes, and the local executor has this one"
    return _why_no_gpu(spec, machine) or _why_no_torch(spec, catalog) or _why_no_data(spec, catalog, data)


def _why_no_gpu(spec: RunSpec, machine: Machine) -> str | None:
    if spec.device != "cuda":
        return None
    needed, there = spec.processes * spec.devices, len(machine.gpus)
    if needed <= there:
        return None
    has = f"{there} of them" if there else "none"
    return f"it needs {needed} GPU{'s' if needed > 1 else ''}, and this machine has {has}"


def _why_no_torch(spec: RunSpec, catalog: Catalog) -> str | None:
    if catalog.strategies[spec.strategy].torch_free or _installed("torch"):
        return None
    return "torch is not installed here: pip install 'hpcbench-strategies[train]'"


@cache
def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _why_no_data(spec: RunSpec, catalog: Catalog, data: Mapping[str, str]) -> str | None:
    if not catalog.datasets[spec.dataset].needs_files:
        return None
    folder = data.get(spec.dataset)
    if folder is None:
        return f"where is the data set {spec.dataset}? Say --data DIR, or set HPCBENCH_DATA"
    return None if Path(folder).is_dir() else f"the data set {spec.dataset} is not there: no folder {folder}"


def cores_shared_by(runs: Iterable[RunSpec]) -> dict[str, int]:
    """Return, for each kind of device, among how many of them a run of this sweep splits the machine's cores.

    That is the largest number of devices that any run of the kind uses: a run on fewer devices leaves cores
    idle, as it would leave GPUs idle (docs/decisions/0005-threads-per-rank.md).
    """
    shares: dict[str, int] = {}
    for spec in runs:
        shares[spec.device] = max(shares.get(spec.device, 1), spec.processes * spec.devices)
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
    return spec.device == "cpu" and spec.processes > machine.cores
