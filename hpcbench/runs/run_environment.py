"""The environment of a run: versions, hardware, commit, variables that affect speed, and a digest of the
source that ranks execute. Pure Python imports only: it runs in any image.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import hpcbench

# What ranks execute. Commands, tables and reports may differ from a rank's without harm.
RANK_FOLDERS = ("ceilings", "runs", "strategies", "sweep", "tasks", "teaching", "training")


def source_digest() -> str:
    """Return eight digits that stand for the source of what ranks execute."""
    root = Path(hpcbench.__file__).parent
    digest = hashlib.sha256()
    for path in source_files(RANK_FOLDERS):
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:8]


def source_files(folders: Iterable[str]) -> list[Path]:
    """Return the source files in these folders of the package, sorted by folder and path.

    Raises FileNotFoundError for a folder that does not exist.
    """
    root = Path(hpcbench.__file__).parent
    missing = [name for name in folders if not (root / name).is_dir()]
    if missing:
        raise FileNotFoundError(f"no such folder of the package: {', '.join(missing)}")
    return [path for name in folders for path in sorted((root / name).rglob("*.py"))]


RECORDED_PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "scikit-learn",
    "submitit",
    "triton",
    "nvidia-nccl-cu12",
)
SPEED_VARIABLE_PREFIXES = ("NCCL_", "GLOO_", "CUDA_", "TORCH_", "OMP_", "MKL_", "KMP_", "GOMP_")
SPEED_VARIABLES = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "LD_PRELOAD")


def describe_environment(environment: Mapping[str, str] = os.environ) -> dict[str, Any]:
    """Return the facts about software and host that a comparison has to hold equal."""
    return {
        "hpcbench": hpcbench.__version__,
        "python": platform.python_version(),
        "packages": _versions(),
        "hostname": environment.get("SLURMD_NODENAME") or platform.node(),
        "os": f"{platform.system()} {platform.release()}",
        "cpu": _cpu_model(),
        "cores_physical": _physical_cores(),
        "cores_logical": os.cpu_count(),
        "cores_usable": _cores_usable(),
        "cores_bound": _cores_bound(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_1min": os.getloadavg()[0],
        "git": git_state(Path(hpcbench.__file__).parent),
        "image_digest": environment.get("HPCBENCH_IMAGE_DIGEST"),
        "variables": _speed_variables(environment),
    }


@functools.cache
def _cores_usable() -> int:
    """Count the cores that were this process's when it was first asked, before it was bound to some."""
    return len(os.sched_getaffinity(0))


def _cores_bound() -> list[int] | None:
    cores = os.sched_getaffinity(0)
    return sorted(cores) if len(cores) < _cores_usable() else None


def bind_to_cores(cores: Collection[int] | None) -> None:
    """Keep this process, and all that it starts, to these cores; None: to any.

    Before anything is imported that starts threads: each has its own set of cores.
    """
    _cores_usable()
    if not cores:
        return
    try:
        os.sched_setaffinity(0, cores)
    except OSError as error:
        # A container engine may have given this rank other cores: it trains on those, and its record says so.
        print(f"not bound to cores {sorted(cores)}: {error.strerror}", file=sys.stderr)


def _versions() -> dict[str, str]:
    found = {}
    for name in RECORDED_PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _speed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    kept = (key for key in environment if key.startswith(SPEED_VARIABLE_PREFIXES) or key in SPEED_VARIABLES)
    return {key: environment[key] for key in sorted(kept)}


def _physical_cores() -> int | None:
    """Count the cores, where threads share one; None where the kernel does not tell."""
    siblings = Path("/sys/devices/system/cpu").glob("cpu[0-9]*/topology/thread_siblings_list")
    return len({path.read_text() for path in siblings}) or None


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
    # An installed copy may lie inside a checkout of something else: only a tracked file makes it ours.
    if commit is None or git("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}
