"""Cores, memory and GPUs of this machine, and which cores each rank is bound to. Found without torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from hpcbench.runs.placement import locate_ranks
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.run_spec import RunSpec

CGROUP = Path("/sys/fs/cgroup")
NVIDIA_DRIVER = Path("/proc/driver/nvidia/gpus")
QUERY_TIMEOUT_S = 20


@dataclass(frozen=True, kw_only=True)
class Machine:
    """`cores` may be used by this process (affinity and cgroup quota respected), `gpus` are visible ones.

    `nodes` are like machines that belong together: inside an allocation of a scheduler there may be several.
    """

    cores: int
    memory_bytes: int
    gpus: tuple[str, ...] = ()
    nodes: int = 1


def this_machine(environment: Mapping[str, str] = os.environ) -> Machine:
    """Look at the machine that this process runs on."""
    return Machine(
        cores=usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpus=visible_gpus(installed_gpus(), environment.get("CUDA_VISIBLE_DEVICES")),
        nodes=int(environment.get("SLURM_JOB_NUM_NODES", "1")),
    )


def usable_cores(cgroup: Path = CGROUP) -> int:
    """Return how many cores this process may keep busy, at least 1."""
    allowed = len(os.sched_getaffinity(0))
    quota = _cpu_quota(cgroup)
    return max(1, min(allowed, int(quota))) if quota is not None else allowed


def _cpu_quota(cgroup: Path) -> float | None:
    """Return the cores that the control group grants (version 2, then version 1), None for no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except OSError:
        try:
            quota = (cgroup / "cpu/cpu.cfs_quota_us").read_text().strip()
            period = (cgroup / "cpu/cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    return None if quota in ("max", "-1") else int(quota) / int(period)


def installed_gpus(driver: Path = NVIDIA_DRIVER) -> tuple[str, ...]:
    """Return the names of NVIDIA's GPUs, from the driver's files or else from nvidia-smi."""
    names = []
    for information in sorted(driver.glob("*/information")):
        match = re.search(r"^Model:\s*(.+)$", information.read_text(), re.MULTILINE)
        names.append(match[1].strip() if match else "unknown GPU")
    return tuple(names) or _gpus_from_nvidia_smi()


def _gpus_from_nvidia_smi() -> tuple[str, ...]:
    """List GPUs where the driver's files are hidden, as in some containers."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    try:
        listing = subprocess.run(
            [command, "-L"], capture_output=True, text=True, timeout=QUERY_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(re.findall(r"^GPU \d+: (.+?) \(UUID", listing.stdout, re.MULTILINE))


def visible_gpus(installed: tuple[str, ...], selection: str | None) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES leaves: CUDA stops at the first entry that names no device."""
    if selection is None:
        return installed
    visible = []
    for entry in (part.strip() for part in selection.split(",")):
        if entry.isdigit() and int(entry) < len(installed):
            visible.append(installed[int(entry)])
        elif entry.startswith(("GPU-", "MIG-")) and installed:
            # A UUID: which of them it is changes nothing on a node of like GPUs.
            visible.append(installed[min(len(visible), len(installed) - 1)])
        else:
            break
    return tuple(visible)


PCI_DEVICES = Path("/sys/bus/pci/devices")
CPU_FOLDERS = Path("/sys/devices/system/cpu")


def cores_near_gpus(
    selection: str | None,
    *,
    driver: Path = NVIDIA_DRIVER,
    pci: Path = PCI_DEVICES,
    allowed: Iterable[int] | None = None,
) -> tuple[frozenset[int], ...]:
    """Return for each GPU that CUDA_VISIBLE_DEVICES leaves the allowed cores that its PCI slot is nearest to.

    Empty where that is not known, or where others may use the same cores: some GPUs of the node are not
    ours, but all of its cores may be used. Like GPUs have their numbers by the order of their slots.
    """
    mine = frozenset(os.sched_getaffinity(0) if allowed is None else allowed)
    installed = tuple(sorted(folder.name for folder in driver.glob("*") if (folder / "information").exists()))
    visible = visible_gpus(installed, selection)
    if len(visible) < len(installed) and len(mine) == os.cpu_count():
        return ()
    near = []
    for address in visible:
        try:
            text = (pci / address.lower() / "local_cpulist").read_text()
        except OSError:
            return ()
        near.append(mine & parse_core_list(text) or mine)
    return tuple(near)


def parse_core_list(text: str) -> frozenset[int]:
    """Read a list of cores as the kernel writes it, such as `0-3,8`."""
    found: set[int] = set()
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        if first:
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


def assign_cores(near: Sequence[frozenset[int]], each: int, order: Sequence[int]) -> list[list[int]] | None:
    """Give each device so many cores of its own, near ones as far as they go; None where there are too few.

    `order` lists all cores, and decides which come first. GPUs near the same cores share them evenly.
    """
    if each * len(near) > len(order):
        return None
    free = dict.fromkeys(order)
    neighbours = Counter(near)
    shares: list[list[int]] = []
    for cores in near:
        fair = min(each, len(cores) // neighbours[cores])
        shares.append(_take(free, [core for core in free if core in cores][:fair]))
    for share in shares:
        share += _take(free, list(free)[: each - len(share)])
    return shares


def _take(free: dict[int, None], cores: list[int]) -> list[int]:
    for core in cores:
        del free[core]
    return cores


def sort_by_siblings(cores: Iterable[int], cpus: Path = CPU_FOLDERS) -> list[int]:
    """Sort cores so that the threads of one physical core are adjacent."""

    def key(core: int) -> tuple[int, int]:
        try:
            siblings = parse_core_list((cpus / f"cpu{core}/topology/thread_siblings_list").read_text())
        except OSError:
            return core, core
        return min(siblings, default=core), core

    return sorted(cores, key=key)


def cores_of_ranks(spec: RunSpec, near: Sequence[frozenset[int]], threads: int) -> dict[int, list[int]]:
    """Return the cores of each rank, as if all were on this node's GPUs; empty where none is bound.

    A rank gets `threads` cores for each of its devices; a parameter server in memory may use all.
    """
    if spec.device != "cuda":
        return {}
    seats = locate_ranks(spec)
    server_device = STRATEGIES[spec.strategy].server_device(spec.strategy_options)
    on_gpus = spec.processes if server_device == "gpu" else spec.ranks
    first = [seats[rank].local_rank * spec.devices for rank in range(on_gpus)]
    used = max(first) + spec.devices
    if used > len(near):
        return {}
    shares = assign_cores(near[:used], threads, sort_by_siblings(os.sched_getaffinity(0)))
    if shares is None:
        return {}
    return {
        rank: sorted(core for share in shares[at : at + spec.devices] for core in share)
        for rank, at in enumerate(first)
    }
