"""`hpcbench doctor`: what is here, what is wrong, and how to mend it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from hpcbench.cluster.checkup import Check, State
from hpcbench.cluster.containers import ContainerError
from hpcbench.cluster.enclosure import SHARED_MEMORY_BYTES
from hpcbench.cluster.images import ask, last_line
from hpcbench.cluster.machine import Machine, installed_gpus, this_machine
from hpcbench.cluster.preflight import MEBI, free_shared_memory
from hpcbench.cluster.runtimes import check_runtimes, try_out
from hpcbench.config.catalog import Catalog
from hpcbench.config.data import ROOT_VARIABLE
from hpcbench.errors import input_error

TORCH_TIMEOUT_S = 120
STYLES = {State.FINE: "green", State.ABSENT: "dim", State.WRONG: "bold red"}
# In a process of its own: importing torch takes seconds, and where it is broken it may end the process.
ASK_TORCH = """
import json, torch, torch.distributed as dist
names = ("gloo", "nccl") if dist.is_available() else ()
backends = [name for name in names if getattr(dist, f"is_{name}_available")()]
print(json.dumps({"version": torch.__version__, "gpus": torch.cuda.device_count(), "backends": backends}))
"""


def doctor(catalog: Catalog, *, data_root: str | None, tried: Sequence[str], as_json: bool) -> int:
    """Look around and print what was found; returns 1 where something is wrong."""
    wanted = [_image_to_try(each) for each in tried]
    machine = this_machine()
    checks = [
        *_check_machine(machine),
        *_check_torch(machine),
        *_check_slurm(),
        *check_runtimes(gpus=bool(machine.gpus)),
        *_check_data(catalog, data_root),
        *(try_out(runtime, image) for runtime, image in wanted),
    ]
    if as_json:
        print(json.dumps({"checks": [check.to_json() for check in checks]}, indent=1))
    else:
        _print(checks)
    return int(any(check.state is State.WRONG for check in checks))


def _image_to_try(said: str) -> tuple[str, str]:
    runtime, _, image = said.partition("=")
    if runtime not in ("apptainer", "docker", "podman") or not image:
        raise input_error("not an image to try", key="--try", found=said, allowed="RUNTIME=IMAGE")
    return runtime, image


def _check_machine(machine: Machine) -> Iterator[Check]:
    memory_gb = machine.memory_bytes / 1e9
    yield _fine(
        "machine", "cores", f"{machine.cores} usable of {os.cpu_count()}, {memory_gb:.0f} GB of memory"
    )
    installed = installed_gpus()
    if not installed:
        yield Check(area="machine", name="GPUs", state=State.ABSENT, found="none of NVIDIA's")
    else:
        hidden = f" (of {len(installed)}: CUDA_VISIBLE_DEVICES)" if len(machine.gpus) < len(installed) else ""
        yield _fine("machine", "GPUs", f"{len(machine.gpus)}{hidden}: {', '.join(sorted(set(installed)))}")
    free = free_shared_memory()
    needed = SHARED_MEMORY_BYTES * max(1, len(machine.gpus))
    enough = free is None or free >= needed
    yield Check(
        area="machine",
        name="/dev/shm",
        state=State.FINE if enough else State.WRONG,
        found="none" if free is None else f"{free // MEBI} MiB free",
        advice=None if enough else f"{needed // MEBI} MiB are needed: mount it larger, or --ipc=host",
    )


def _check_torch(machine: Machine) -> Iterator[Check]:
    command = [sys.executable, "-c", ASK_TORCH]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TORCH_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired:
        yield Check(area="torch", name="torch", state=State.WRONG, found=f"no answer in {TORCH_TIMEOUT_S} s")
        return
    if done.returncode:
        missing = "No module named 'torch'" in done.stderr
        yield Check(
            area="torch",
            name="torch",
            state=State.ABSENT if missing else State.WRONG,
            found="not installed" if missing else last_line(done.stderr),
            advice="pip install 'hpcbench-strategies[train]', or ranks in containers" if missing else None,
        )
        return
    found = json.loads(done.stdout.splitlines()[-1])
    blind = bool(machine.gpus) and not found["gpus"]
    yield Check(
        area="torch",
        name="torch",
        state=State.WRONG if blind else State.FINE,
        found=f"{found['version']}, sees {found['gpus']} GPUs",
        advice="This torch sees no GPU: a CPU build, or one for a newer driver" if blind else None,
    )
    yield _fine("torch", "backends", ", ".join(found["backends"]) or "none")


def _check_slurm() -> Iterator[Check]:
    if shutil.which("sbatch") is None:
        yield Check(area="slurm", name="Slurm", state=State.ABSENT, found="no command sbatch")
        return
    try:
        done = ask("scontrol", "ping")
    except ContainerError as error:
        yield Check(area="slurm", name="Slurm", state=State.WRONG, found=str(error))
        return
    there = done.returncode == 0 and "UP" in done.stdout
    yield Check(
        area="slurm",
        name="Slurm",
        state=State.FINE if there else State.WRONG,
        found=last_line(done.stdout or done.stderr),
        advice=None if there else "The controller does not answer",
    )


def _check_data(catalog: Catalog, data_root: str | None) -> Iterator[Check]:
    root = data_root or os.environ.get(ROOT_VARIABLE)
    if root is None:
        yield Check(area="data", name="folder", state=State.ABSENT, found=f"no --data, no {ROOT_VARIABLE}")
        return
    if not Path(root).is_dir():
        yield Check(area="data", name="folder", state=State.WRONG, found=f"there is no folder {root}")
        return
    there = [
        name for name, entry in catalog.datasets.items() if entry.needs_files and (Path(root) / name).is_dir()
    ]
    yield _fine("data", "folder", f"{root}: {', '.join(there) or 'no data set that hpcbench knows'}")


def _fine(area: str, name: str, found: str) -> Check:
    return Check(area=area, name=name, state=State.FINE, found=found)


def _print(checks: Sequence[Check]) -> None:
    from rich.table import Table
    from rich.text import Text

    from hpcbench.cluster.show import console

    table = Table(box=None, pad_edge=False)
    for title in ("", "", "", "found", "what to do"):
        table.add_column(title, overflow="fold")
    area = None
    for check in checks:
        state = Text(check.state.value, style=STYLES[check.state])
        first = check.area if check.area != area else ""
        table.add_row(first, check.name, state, Text(check.found), Text(check.advice or ""))
        area = check.area
    console().print(table)
