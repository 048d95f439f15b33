"""What this machine has, found without torch and in milliseconds."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

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
    return tuple(names) or _gpus_of_nvidia_smi()


def _gpus_of_nvidia_smi() -> tuple[str, ...]:
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
