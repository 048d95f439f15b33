"""What a run found itself in: versions, hardware, commit, variables that change speed. Imports no torch."""

from __future__ import annotations

import functools
import os
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

import hpcbench

PACKAGES = ("torch", "torchvision", "numpy", "scikit-learn", "submitit", "triton", "nvidia-nccl-cu12")
VARIABLE_PREFIXES = ("NCCL_", "GLOO_", "CUDA_", "TORCH_", "OMP_", "MKL_", "KMP_", "GOMP_")
VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "LD_PRELOAD", "HPCBENCH_IMAGE_DIGEST")


def describe_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the facts about software and host that a comparison has to hold equal."""
    return {
        "hpcbench": hpcbench.__version__,
        "python": platform.python_version(),
        "packages": _versions(),
        "hostname": environment.get("SLURMD_NODENAME") or platform.node(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": psutil.cpu_count(),
        "cores_usable": len(os.sched_getaffinity(0)),
        "memory_bytes": psutil.virtual_memory().total,
        "load_1min": os.getloadavg()[0],
        "git": git_state(Path(hpcbench.__file__).parent),
        "image_digest": environment.get("HPCBENCH_IMAGE_DIGEST"),
        "variables": _speed_variables(environment),
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _speed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    kept = (key for key in environment if key.startswith(VARIABLE_PREFIXES) or key in VARIABLES)
    return {key: environment[key] for key in sorted(kept)}


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or None
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, None)


@functools.cache
def git_state(folder: Path) -> dict[str, Any] | None:
    """Return commit and whether files differ from it; None outside a checkout or without git."""

    def git(*arguments: str) -> str | None:
        command = ["git", "-C", str(folder), *arguments]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "HEAD")
    # An installed copy may lie inside somebody else's checkout: only a tracked file makes it ours.
    if commit is None or git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
