"""Questions to Slurm's own commands. Each has a time limit: a controller that is down hangs nobody."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from hpcbench.errors import HpcbenchError

PATIENCE_S = 30.0
CONFIGURATIONS = ("/etc/slurm/slurm.conf", "/etc/slurm-llnl/slurm.conf", "/run/slurm/conf/slurm.conf")


class SlurmError(HpcbenchError):
    """Slurm refuses, or does not answer; what it said is the message."""


def ask(command: Sequence[str], *, text: str | None = None, patience_s: float = PATIENCE_S) -> str:
    """Return what a command of Slurm prints; raises SlurmError with its own words."""
    try:
        done = subprocess.run(
            command,
            input=text,
            stdin=subprocess.DEVNULL if text is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience_s,
            env=without_defaults(),
            check=False,
        )
    except FileNotFoundError:
        raise SlurmError(f"there is no {command[0]} here: load the Slurm module") from None
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]}: Slurm did not answer within {patience_s:.0f} s") from None
    if done.returncode:
        said = " ".join((done.stderr.strip() or done.stdout.strip()).split("\n"))
        raise SlurmError(said or f"{command[0]} left with exit status {done.returncode}")
    return done.stdout


def without_defaults() -> dict[str, str]:
    """Return the environment without the caller's defaults for sbatch and its like: a job says all it wants.

    Inside an allocation those of the allocation would be taken for the new job's, too.
    """
    foreign = ("SBATCH_", "SALLOC_", "SRUN_", "SQUEUE_", "SACCT_", "SCANCEL_")
    return {key: value for key, value in os.environ.items() if not key.startswith(foreign)}


def is_installed() -> bool:
    """Return whether jobs can be handed to Slurm from here."""
    return shutil.which("sbatch") is not None


def is_configured() -> bool:
    """Return whether this machine belongs to a cluster, whatever commands it has."""
    named = os.environ.get("SLURM_CONF")
    return any(Path(each).exists() for each in ([named] if named else CONFIGURATIONS))
