"""Checks of cores, memory, GPUs, torch, Slurm and the data folder.

Each check has a state, a finding and advice.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from hpcbench.errors import input_error
from hpcbench.launch.containers.image_checks import MEBIBYTE, free_shared_memory, last_line
from hpcbench.launch.containers.rank_containers import SHARED_MEMORY_BYTES
from hpcbench.launch.machine_resources import Machine, installed_gpus
from hpcbench.launch.slurm.slurm_client import SlurmError, run_slurm
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.data_location import ROOT_VARIABLE


class CheckState(Enum):
    """`ABSENT` is nothing wrong: not every machine has everything."""

    FINE = "fine"
    ABSENT = "absent"
    WRONG = "wrong"


@dataclass(frozen=True)
class CheckResult:
    """One thing that was looked at, and what mends it where it is wrong."""

    area: str
    name: str
    state: CheckState
    found: str
    advice: str | None = None

    def to_json(self) -> dict[str, str | None]:
        """Return an entry of `doctor --json`."""
        return {**vars(self), "state": self.state.value}


TORCH_TIMEOUT_S = 120


# In a process of its own: importing torch takes seconds, and where it is broken it may end the process.
TORCH_QUERY = """
import json, torch, torch.distributed as dist
names = ("gloo", "nccl") if dist.is_available() else ()
backends = [name for name in names if getattr(dist, f"is_{name}_available")()]
print(json.dumps({"version": torch.__version__, "gpus": torch.cuda.device_count(), "backends": backends}))
"""


def parse_image_to_try(argument: str) -> tuple[str, str]:
    """Return runtime and image of `--try RUNTIME=IMAGE`."""
    runtime, _, image = argument.partition("=")
    if runtime not in ("apptainer", "docker", "podman") or not image:
        raise input_error("not an image to try", key="--try", found=argument, allowed="RUNTIME=IMAGE")
    return runtime, image


def check_machine(machine: Machine) -> Iterator[CheckResult]:
    """Report cores, memory and GPUs."""
    memory_gb = machine.memory_bytes / 1e9
    yield _fine(
        "machine", "cores", f"{machine.cores} usable of {os.cpu_count()}, {memory_gb:.0f} GB of memory"
    )
    installed = installed_gpus()
    if not installed:
        yield CheckResult("machine", "GPUs", CheckState.ABSENT, "none of NVIDIA's")
    else:
        hidden = f" (of {len(installed)}: CUDA_VISIBLE_DEVICES)" if len(machine.gpus) < len(installed) else ""
        yield _fine("machine", "GPUs", f"{len(machine.gpus)}{hidden}: {', '.join(sorted(set(installed)))}")
    free = free_shared_memory()
    needed = SHARED_MEMORY_BYTES * max(1, len(machine.gpus))
    enough = free is None or free >= needed
    yield CheckResult(
        "machine",
        "/dev/shm",
        CheckState.FINE if enough else CheckState.WRONG,
        "none" if free is None else f"{free // MEBIBYTE} MiB free",
        None if enough else f"{needed // MEBIBYTE} MiB are needed: mount it larger, or --ipc=host",
    )


def check_torch(machine: Machine) -> Iterator[CheckResult]:
    """Report whether torch is installed, and what it can use."""
    command = [sys.executable, "-c", TORCH_QUERY]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield CheckResult("torch", "torch", CheckState.WRONG, f"no answer in {TORCH_TIMEOUT_S} s")
        return
    if done.returncode:
        missing = "No module named 'torch'" in done.stderr
        yield CheckResult(
            "torch",
            "torch",
            CheckState.ABSENT if missing else CheckState.WRONG,
            "not installed" if missing else last_line(done.stderr),
            "pip install 'hpcbench-strategies[train]', or ranks in containers" if missing else None,
        )
        return
    found = json.loads(done.stdout.splitlines()[-1])
    blind = bool(machine.gpus) and not found["gpus"]
    yield CheckResult(
        "torch",
        "torch",
        CheckState.WRONG if blind else CheckState.FINE,
        f"{found['version']}, sees {found['gpus']} GPUs",
        "This torch sees no GPU: a CPU build, or one for a newer driver" if blind else None,
    )
    yield _fine("torch", "backends", ", ".join(found["backends"]) or "none")


def check_slurm() -> Iterator[CheckResult]:
    """Report whether Slurm answers, and whether submissions can work."""
    if shutil.which("sbatch") is None:
        yield CheckResult("slurm", "Slurm", CheckState.ABSENT, "no command sbatch")
        return
    try:
        answer = run_slurm(["scontrol", "ping"])
    except SlurmError as error:
        yield CheckResult("slurm", "Slurm", CheckState.WRONG, str(error))
        return
    answers = "UP" in answer
    yield CheckResult(
        "slurm",
        "Slurm",
        CheckState.FINE if answers else CheckState.WRONG,
        last_line(answer),
        None if answers else "The controller does not answer",
    )


def check_data(catalog: Catalog, data_root: str | None) -> Iterator[CheckResult]:
    """Report which data sets are present and complete."""
    root = data_root or os.environ.get(ROOT_VARIABLE)
    if root is None:
        yield CheckResult("data", "folder", CheckState.ABSENT, f"no --data, no {ROOT_VARIABLE}")
        return
    if not Path(root).is_dir():
        yield CheckResult("data", "folder", CheckState.WRONG, f"there is no folder {root}")
        return
    there = [
        name for name, entry in catalog.datasets.items() if entry.needs_files and (Path(root) / name).is_dir()
    ]
    yield _fine("data", "folder", f"{root}: {', '.join(there) or 'no data set that hpcbench knows'}")


def _fine(area: str, name: str, found: str) -> CheckResult:
    return CheckResult(area, name, CheckState.FINE, found)
