"""Ranks in containers: what each gets of the machine, and whether that would work."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from hpcbench.cluster.containers import ADAPTERS, Bind, ContainerError, Inside, Start, allowed
from hpcbench.cluster.images import look_at
from hpcbench.cluster.limits import limits_of_caller, limits_of_root
from hpcbench.cluster.preflight import MEBI, Needs, check_binds, check_image, check_inside
from hpcbench.config.spec import Container, RunSpec
from hpcbench.strategies import STRATEGIES
from hpcbench.training.data.index import CACHE_VARIABLE, cache_folder

WORKER = ("-m", "hpcbench.training.worker")
DIGEST_VARIABLE = "HPCBENCH_IMAGE_DIGEST"
INFINIBAND = "/dev/infiniband"

# With `inject`, what a rank needs besides torch, torchvision, numpy and what its data set reads with: pure
# Python, so that it runs under any interpreter. Under a folder that no image has.
INJECTED = ("hpcbench", "jsonlines", "attr", "attrs", "annotated_types")
INJECTED_INTO = "/opt/hpcbench-of-host"

# Docker's usual 64 MiB for all are known to be too little for the ranks of a GPU node, whose loader workers
# and NCCL meet in /dev/shm (pytorch/pytorch#5040): as much is wanted for each.
SHARED_MEMORY_BYTES = 64 * MEBI


@dataclass(frozen=True, kw_only=True)
class InContainers:
    """Starts ranks in an image of this `digest`. `client` is the environment of the runtime's command."""

    client: Mapping[str, str]
    container: Container
    inside: Inside
    digest: str | None

    def start(self, rank: int, environment: Mapping[str, str]) -> Start:
        """Return how to start a rank that is to see this environment, as far as it is allowed."""
        inside = replace(
            self.inside,
            name=f"{self.inside.name}-{rank}",
            environment=_environment_inside(self.container, environment, self.digest),
        )
        start = ADAPTERS[self.container.runtime](inside)
        return replace(start, environment={**self.client, **start.environment})


def in_containers(
    spec: RunSpec, run_folder: Path, data: str | None, environment: Mapping[str, str]
) -> InContainers:
    """Make ready to start a run's ranks here; raises ContainerError for whatever would not work."""
    container = spec.container
    image = look_at(container)
    check_image(container, image)
    folders = [Bind(source=str(run_folder), target=str(run_folder), writable=True)]
    if spec.input.stage:
        folders.append(_writable(Path(spec.input.stage)))
    inside = _inside(container, spec.device == "cuda", data, environment, folders)
    check_binds(inside.binds)
    check_inside(container, needs_of(spec), inside, environment)
    return InContainers(client=environment, container=container, inside=inside, digest=image.digest)


def needs_of(spec: RunSpec) -> Needs:
    """Return what a run wants of the inside of its image."""
    processes = spec.processes if spec.device == "cuda" else 1
    return Needs(
        torch=not STRATEGIES[spec.strategy].torch_free,
        shared_memory_bytes=processes * SHARED_MEMORY_BYTES,
    )


def why_not_inside(spec: RunSpec, data: str | None) -> str | None:
    """Return why a run's container can't be used here, before there is a folder for the run; or None."""
    if spec.container.runtime == "none":
        return None
    return _why_not(json.dumps(asdict(spec.container)), needs_of(spec), spec.device == "cuda", data)


@functools.cache  # the runs of a sweep have few different containers
def _why_not(container_json: str, needs: Needs, gpus: bool, data: str | None) -> str | None:
    container = Container(**json.loads(container_json))
    try:
        check_image(container, look_at(container))
        inside = _inside(container, gpus, data, os.environ, [])
        check_binds(inside.binds)
        check_inside(container, needs, inside, os.environ)
    except ContainerError as error:
        return str(error)
    return None


def _inside(
    container: Container, gpus: bool, data: str | None, environment: Mapping[str, str], folders: list[Bind]
) -> Inside:
    assert container.image is not None
    read_only = [Bind(source=each, target=each) for each in (*([data] if data else []), *container.binds)]
    injected = _injected() if container.inject else []
    rootless_podman = container.runtime == "podman" and os.geteuid() != 0
    return Inside(
        image=container.image,
        arguments=WORKER,
        name=f"hpcbench-{secrets.token_hex(4)}",
        environment=_environment_inside(container, {}, None),
        user=(os.getuid(), os.getgid()),
        binds=(*folders, _writable(cache_folder()), *read_only, *injected),
        gpus=gpus,
        devices=(INFINIBAND,) if Path(INFINIBAND).exists() else (),
        limits=limits_of_caller() if rootless_podman else limits_of_root(),
        rootless=rootless_podman,
        node=environment.get("SLURMD_NODENAME"),
    )


def _writable(folder: Path) -> Bind:
    """Bind a folder that need not be there yet."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ContainerError(f"{folder} can't be made for the container: {error.strerror}") from error
    return Bind(source=str(folder.absolute()), target=str(folder.absolute()), writable=True)


def _injected() -> list[Bind]:
    """Bind this machine's hpcbench, and the pure Python that it imports, into a folder of their own."""
    binds = []
    for name in INJECTED:
        found = importlib.util.find_spec(name)
        assert found is not None and found.origin is not None, name
        binds.append(Bind(source=str(Path(found.origin).parent), target=f"{INJECTED_INTO}/{name}"))
    return binds


def _environment_inside(
    container: Container, environment: Mapping[str, str], digest: str | None
) -> dict[str, str]:
    """Return all variables of a rank in a container. The digest is the runtime's word, not the caller's."""
    inside = allowed(environment)
    inside.pop(DIGEST_VARIABLE, None)
    return {
        **inside,
        CACHE_VARIABLE: str(cache_folder().absolute()),
        "PYTHONNOUSERSITE": "1",
        **({"PYTHONPATH": INJECTED_INTO, "PYTHONDONTWRITEBYTECODE": "1"} if container.inject else {}),
        **({DIGEST_VARIABLE: digest} if digest else {}),
    }
