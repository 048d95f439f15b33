"""What the container of each rank gets of the machine: folders, devices, limits, variables and the worker
command.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import re
import resource
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpcbench.launch.containers.container_engines import (
    ADAPTERS,
    Bind,
    ContainerCommand,
    ContainerError,
    allowed_variables,
)
from hpcbench.launch.containers.image_checks import (
    MEBIBYTE,
    ImageNeeds,
    check_binds,
    check_image,
    check_inside,
    inspect_image,
)
from hpcbench.launch.rank_processes import WORKER_ARGUMENTS, StartCommand
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.run_spec import Container, RunSpec
from hpcbench.tasks.image_index import CACHE_VARIABLE, cache_folder

PROC_STATUS = Path("/proc/self/status")
PID_MAX = Path("/proc/sys/kernel/pid_max")
CAP_SYS_RESOURCE = 1 << 24
STACK_BYTES = 64 * 1024 * 1024


def ulimits_of_root(status: str | None = None) -> tuple[str, ...]:
    """Return the limits that an engine run by root can give: any, unless this machine withholds that."""
    found = re.search(
        r"^CapBnd:\s*([0-9a-f]+)$", PROC_STATUS.read_text() if status is None else status, re.MULTILINE
    )
    if found and int(found[1], 16) & CAP_SYS_RESOURCE:
        return ("memlock=-1:-1", f"stack={STACK_BYTES}:{STACK_BYTES}")
    return ulimits_of_caller()


def ulimits_of_caller() -> tuple[str, ...]:
    """Return the limits of this process: podman would try to set higher ones by itself."""
    stack = resource.getrlimit(resource.RLIMIT_STACK)[1]
    largest = STACK_BYTES if stack == resource.RLIM_INFINITY else min(stack, STACK_BYTES)
    kept = {
        "memlock": resource.RLIMIT_MEMLOCK,
        "nofile": resource.RLIMIT_NOFILE,
        "nproc": resource.RLIMIT_NPROC,
    }
    values = {name: resource.getrlimit(kind)[1] for name, kind in kept.items()} | {"stack": largest}
    # podman has lowered its own to this, so it can't give more.
    pids = int(PID_MAX.read_text())
    values["nproc"] = pids if values["nproc"] == resource.RLIM_INFINITY else min(values["nproc"], pids)
    return tuple(f"{name}={value}:{value}" for name, value in sorted(values.items()))


DIGEST_VARIABLE = "HPCBENCH_IMAGE_DIGEST"
INFINIBAND = "/dev/infiniband"

# With `inject`, what a rank needs besides torch, torchvision, numpy and what its data set reads with: pure
# Python, so that it runs under any interpreter. Under a folder that no image has.
INJECTED_PACKAGES = ("hpcbench", "jsonlines", "attr", "attrs", "annotated_types")
INJECTED_FOLDER = "/opt/hpcbench-of-host"

# Docker's usual 64 MiB for all are known to be too little for the ranks of a GPU node, whose loader workers
# and NCCL meet in /dev/shm (pytorch/pytorch#5040): each rank needs as much.
SHARED_MEMORY_BYTES = 64 * MEBIBYTE


@dataclass(frozen=True, kw_only=True)
class ContainerRuntime:
    """Starts ranks in an image of this `digest`. `client` is the environment of the runtime's command."""

    client: Mapping[str, str]
    container: Container
    inside: ContainerCommand
    digest: str | None

    def start(self, rank: int, environment: Mapping[str, str]) -> StartCommand:
        """Return how to start a rank that is to see this environment, as far as it is allowed."""
        inside = replace(
            self.inside,
            name=f"{self.inside.name}-{rank}",
            environment=_environment_inside(self.container, environment, self.digest),
        )
        start = ADAPTERS[self.container.runtime](inside)
        return replace(start, environment={**self.client, **start.environment})


def prepare_containers(
    spec: RunSpec, run_folder: Path, data: str | None, environment: Mapping[str, str]
) -> ContainerRuntime:
    """Make ready to start a run's ranks here; raises ContainerError for whatever would not work."""
    container = spec.container
    image = inspect_image(container)
    check_image(container, image)
    folders = [Bind(source=str(run_folder), target=str(run_folder), writable=True)]
    if spec.input.stage:
        folders.append(_writable_bind(Path(spec.input.stage)))
    inside = _container_command(container, spec.device == "cuda", data, environment, folders)
    check_binds(inside.binds)
    check_inside(container, image_needs_of(spec), inside, environment)
    return ContainerRuntime(client=environment, container=container, inside=inside, digest=image.digest)


def image_needs_of(spec: RunSpec) -> ImageNeeds:
    """Return what a run wants of the inside of its image."""
    processes = spec.processes if spec.device == "cuda" else 1
    return ImageNeeds(
        torch=not STRATEGIES[spec.strategy].torch_free,
        shared_memory_bytes=processes * SHARED_MEMORY_BYTES,
    )


def container_obstacle(spec: RunSpec, data: str | None) -> str | None:
    """Return why a run's container can't be used here, before there is a folder for the run; or None."""
    if spec.container.runtime == "none":
        return None
    return _cached_obstacle(
        json.dumps(asdict(spec.container)), image_needs_of(spec), spec.device == "cuda", data
    )


@functools.cache  # the runs of a sweep have few different containers
def _cached_obstacle(container_json: str, needs: ImageNeeds, gpus: bool, data: str | None) -> str | None:
    container = Container(**json.loads(container_json))
    try:
        check_image(container, inspect_image(container))
        inside = _container_command(container, gpus, data, os.environ, [])
        check_binds(inside.binds)
        check_inside(container, needs, inside, os.environ)
    except ContainerError as error:
        return str(error)
    return None


def _container_command(
    container: Container, gpus: bool, data: str | None, environment: Mapping[str, str], folders: list[Bind]
) -> ContainerCommand:
    assert container.image is not None
    read_only = [Bind(source=each, target=each) for each in (*([data] if data else []), *container.binds)]
    injected = _injected_binds() if container.inject else []
    rootless_podman = container.runtime == "podman" and os.geteuid() != 0
    return ContainerCommand(
        image=container.image,
        arguments=WORKER_ARGUMENTS,
        name=f"hpcbench-{secrets.token_hex(4)}",
        environment=_environment_inside(container, {}, None),
        user=(os.getuid(), os.getgid()),
        binds=(*folders, _writable_bind(cache_folder()), *read_only, *injected),
        gpus=gpus,
        devices=(INFINIBAND,) if Path(INFINIBAND).exists() else (),
        limits=ulimits_of_caller() if rootless_podman else ulimits_of_root(),
        rootless=rootless_podman,
        node=environment.get("SLURMD_NODENAME"),
    )


def _writable_bind(folder: Path) -> Bind:
    """Bind a folder that need not be there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContainerError(f"{folder} can't be made for the container: {error.strerror}") from error
    return Bind(source=str(folder.absolute()), target=str(folder.absolute()), writable=True)


def _injected_binds() -> list[Bind]:
    """Bind this machine's hpcbench, and the pure Python that it imports, into a folder of their own."""
    binds = []
    for name in INJECTED_PACKAGES:
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None, name
        binds.append(Bind(source=str(Path(found.origin).parent), target=f"{INJECTED_FOLDER}/{name}"))
    return binds


def _environment_inside(
    container: Container, environment: Mapping[str, str], digest: str | None
) -> dict[str, str]:
    """Return all variables of a rank in a container. The digest comes from the runtime only."""
    inside = allowed_variables(environment)
    inside.pop(DIGEST_VARIABLE, None)
    return {
        **inside,
        CACHE_VARIABLE: str(cache_folder().absolute()),
        "PYTHONNOUSERSITE": "1",
        **({"PYTHONPATH": INJECTED_FOLDER, "PYTHONDONTWRITEBYTECODE": "1"} if container.inject else {}),
        **({DIGEST_VARIABLE: digest} if digest else {}),
    }
