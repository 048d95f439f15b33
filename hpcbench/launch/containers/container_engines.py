"""Command lines of Apptainer, Docker, Podman and pyxis that run Python in an image.

No shell interprets any of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import get_args

from hpcbench.launch.rank_processes import RankStartError, StartCommand
from hpcbench.sweep.run_spec import Runtime

# Variables that a rank may need. Others, such as a PYTHONPATH or LD_LIBRARY_PATH of the host, are about files
# that an image does not have.
ALLOWED_PREFIXES = (
    "HPCBENCH_", "NCCL_", "GLOO_", "TORCH_", "PYTORCH_", "UCX_", "FI_", "OMP_", "MKL_", "KMP_", "GOMP_",
    "OPENBLAS_", "NUMEXPR_", "BLIS_",
)  # fmt: skip
ALLOWED_VARIABLES = (
    "CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "CUDA_LAUNCH_BLOCKING", "CUDA_MODULE_LOADING",
    "CUDA_DEVICE_MAX_CONNECTIONS", "NVIDIA_TF32_OVERRIDE", "MASTER_ADDR", "MASTER_PORT", "PYTHONUNBUFFERED",
    "SLURM_JOB_ID", "SLURM_JOB_NODELIST", "SLURM_JOB_NUM_NODES", "SLURM_NODEID", "SLURM_PROCID",
    "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_RESTART_COUNT", "SLURMD_NODENAME", "TZ",
)  # fmt: skip
EXCLUDED_VARIABLES = ("TORCH_HOME", "TORCH_EXTENSIONS_DIR")  # folders of the host

# Where a rank is no child of ours, a process beside it has to receive signals, to collect orphans, and to end
# it when its client is gone.
INIT_COMMAND = ("-m", "hpcbench.training.pid1")


class ContainerError(RankStartError):
    """A run's container can't be used here; no rank was started."""


def allowed_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that come along into a container."""
    return {
        name: value
        for name, value in environment.items()
        if (name in ALLOWED_VARIABLES or name.startswith(ALLOWED_PREFIXES)) and name not in EXCLUDED_VARIABLES
    }


@dataclass(frozen=True, kw_only=True)
class Bind:
    """A file or folder of the machine, and where it is inside."""

    source: str
    target: str
    writable: bool = False


@dataclass(frozen=True, kw_only=True)
class ContainerCommand:
    """Python with `arguments` in an image, and what it gets of the machine.

    `environment` is complete: nothing else comes in. `user` is (uid, gid), `devices` are device files besides
    GPUs, `limits` as the engines write them, `rootless` says that the caller is not root (podman), `node` is
    this one's name in Slurm (pyxis). `name` is the container's; if `guarded`, it ends with who started it.
    """

    image: str
    arguments: tuple[str, ...]
    name: str
    environment: Mapping[str, str]
    user: tuple[int, int]
    binds: tuple[Bind, ...] = ()
    gpus: bool = False
    devices: tuple[str, ...] = ()
    limits: tuple[str, ...] = ()
    rootless: bool = False
    node: str | None = None
    guarded: bool = True


def apptainer(inside: ContainerCommand, program: str = "apptainer") -> StartCommand:
    """Run in a SIF file. The rank is a child like any other: no daemon, no namespace of processes.

    /dev, and so /dev/shm, and /tmp are the machine's, limits are inherited, and ids are the caller's anyway.
    Variables travel as APPTAINERENV_NAME: `--env` would split values at commas.
    """
    prefix = "SINGULARITYENV_" if program == "singularity" else "APPTAINERENV_"
    argv = [program, "exec", "--cleanenv", "--no-mount", "home,cwd", "--pwd", "/"]
    argv += ["--nv"] if inside.gpus else []
    argv += ["--no-privs"] if inside.user[0] == 0 else []  # root's own, which a machine may withhold
    for bind in inside.binds:
        argv += ["--bind", f"{bind.source}:{bind.target}:{'rw' if bind.writable else 'ro'}"]
    return StartCommand(
        argv=(*argv, inside.image, "python3", *inside.arguments),
        environment={f"{prefix}{name}": value for name, value in inside.environment.items()},
        contained=True,
    )


def docker(inside: ContainerCommand) -> StartCommand:
    """Run by the Docker engine."""
    return _engine("docker", inside, ["--gpus", "all"] if inside.gpus else [])


def podman(inside: ContainerCommand) -> StartCommand:
    """Run by podman; GPUs come by CDI. Without root, the caller's ids have to be asked for."""
    gpus = ["--device", "nvidia.com/gpu=all"] if inside.gpus else []
    return _engine("podman", inside, [*gpus, *(["--userns", "keep-id"] if inside.rootless else [])])


def _engine(program: str, inside: ContainerCommand, own: list[str]) -> StartCommand:
    """Return what docker and podman have in common.

    `label=disable`: where SELinux is on, a bound folder would otherwise be unreadable or need new labels.
    """
    argv = [program, "run", "--rm", "--name", inside.name, "--pull", "never", "--interactive"]
    argv += ["--network", "host", "--ipc", "host", "--log-driver", "none", "--no-healthcheck"]
    argv += ["--security-opt", "label=disable", "--user", f"{inside.user[0]}:{inside.user[1]}", *own]
    for limit in inside.limits:
        argv += ["--ulimit", limit]
    for device in inside.devices:
        argv += ["--device", device]
    for bind in inside.binds:
        mode = "" if bind.writable else ",readonly"
        argv += ["--mount", f"type=bind,source={bind.source},target={bind.target}{mode}"]
    for name, value in sorted(({"HOME": "/tmp"} | dict(inside.environment)).items()):
        argv += ["--env", f"{name}={value}"]
    return StartCommand(
        argv=(*argv, "--workdir", "/", "--entrypoint", "python3", inside.image, *_with_init(inside)),
        environment={},
        contained=True,
        client=True,
        remove=(program, "rm", "--force", inside.name),
    )


def pyxis(inside: ContainerCommand) -> StartCommand:
    """Run as a step of the Slurm job on this node, in an image that pyxis knows how to get."""
    names = ",".join(sorted(inside.environment))
    mounts = ",".join(f"{each.source}:{each.target}{'' if each.writable else ':ro'}" for each in inside.binds)
    argv = ["srun", "--overlap", "--nodes=1", "--ntasks=1", "--cpu-bind=none", "--mem=0", "--unbuffered"]
    argv += [f"--nodelist={inside.node}"] if inside.node else []
    argv += [f"--export={names}", f"--container-image={inside.image}", f"--container-env={names}"]
    argv += [f"--container-mounts={mounts}"] if mounts else []
    argv += ["--no-container-mount-home", "--no-container-remap-root", "--no-container-entrypoint"]
    return StartCommand(
        argv=(*argv, "--container-workdir=/", "python3", *_with_init(inside)),
        environment=inside.environment,
        contained=True,
        client=True,
    )


def _with_init(inside: ContainerCommand) -> tuple[str, ...]:
    return (*INIT_COMMAND, *inside.arguments) if inside.guarded else inside.arguments


ADAPTERS: Mapping[Runtime, Callable[[ContainerCommand], StartCommand]] = {
    "apptainer": lambda inside: apptainer(inside, program_of("apptainer") or "apptainer"),
    "docker": docker,
    "podman": podman,
    "pyxis": pyxis,
}

PROGRAMS: Mapping[Runtime, tuple[str, ...]] = {
    "none": (),
    "apptainer": ("apptainer", "singularity"),
    "docker": ("docker",),
    "podman": ("podman",),
    "pyxis": ("srun",),
}

assert {*ADAPTERS, "none"} == {*PROGRAMS} == {*get_args(Runtime)}


def program_of(runtime: Runtime) -> str | None:
    """Return the command that stands for a runtime here; None where it is not installed."""
    return next((name for name in PROGRAMS[runtime] if shutil.which(name)), None)
