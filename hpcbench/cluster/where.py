"""Where jobs go: this machine, or a cluster's queue."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum

from hpcbench.cluster.machine import Machine
from hpcbench.cluster.slurm import ask, site
from hpcbench.errors import InputError

VARIABLE = "HPCBENCH_EXECUTOR"
EXECUTORS = ("auto", "slurm", "local")
ELSE = "say --executor local"


class Where(Enum):
    """Who executes jobs."""

    LOCAL = "this machine, one job at a time"
    SLURM = "Slurm"


def choose(wanted: str | None, machine: Machine, environment: Mapping[str, str] = os.environ) -> Where:
    """Return where jobs go; raises InputError where what is wanted is not there.

    `auto`: inside an allocation, there; else Slurm where it answers; else this machine, unless it looks like
    the login node of a cluster whose Slurm can't be used.
    """
    wanted = wanted or environment.get(VARIABLE) or "auto"
    if wanted not in EXECUTORS:
        raise InputError(f"{VARIABLE}: found {wanted!r}; allowed: {', '.join(EXECUTORS)}")
    if wanted == "local":
        return Where.LOCAL
    if wanted == "slurm":
        _require()
        return Where.SLURM
    if inside_allocation(environment):
        return Where.LOCAL
    if ask.is_installed() and ask.is_configured():
        _require()
        return Where.SLURM
    if ask.is_configured() and not machine.gpus:
        raise InputError(
            "Slurm is configured here, and there is neither sbatch nor a GPU: this looks like a login node. "
            "Load the Slurm module, or say --executor local"
        )
    return Where.LOCAL


def inside_allocation(environment: Mapping[str, str]) -> bool:
    """Return whether this process is part of a job of Slurm, on one of its nodes."""
    return "SLURM_JOB_ID" in environment and "SLURM_JOB_NODELIST" in environment


def _require() -> None:
    if not ask.is_installed():
        raise InputError(f"--executor slurm: there is no sbatch here. Load the Slurm module, or {ELSE}")
    try:
        site.this_site()
    except ask.SlurmError as error:
        raise InputError(f"Slurm does not answer: {error}. Try again later, or {ELSE}") from error
