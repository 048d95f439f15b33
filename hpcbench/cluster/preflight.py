"""Everything about a container that can be known to be wrong before any rank is started."""

from __future__ import annotations

import json
import os
import re
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import hpcbench
from hpcbench.cluster.containers import ADAPTERS, Bind, ContainerError, Inside, Start
from hpcbench.cluster.images import Image, architecture_here, last_line
from hpcbench.config.spec import Container
from hpcbench.measure.source import source_digest

PROBE_TIMEOUT_S = 900  # pyxis may have to import a large image first
OLDEST_PYTHON = (3, 11)
MEBI = 1024 * 1024
SEPARATORS = re.compile(r"[,:\"\n]")  # what the runtimes' notations for folders are made of
NO_PYTHON = re.compile(r"python3.*(not found|no such file)|not found.*python3", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What a run wants of the inside of its image."""

    torch: bool
    shared_memory_bytes: int


def check_image(container: Container, image: Image) -> None:
    """Raise ContainerError for an image of another architecture."""
    if image.architecture not in (None, architecture_here()):
        raise ContainerError(_other_architecture(container, f"it is for {image.architecture}"))


def check_binds(binds: Sequence[Bind]) -> None:
    """Raise ContainerError for a folder that can't be bound."""
    for bind in binds:
        if SEPARATORS.search(bind.source) or SEPARATORS.search(bind.target):
            raise ContainerError(
                f"{bind.source} can't be bound into a container: a comma, colon or quote is in its name"
            )
        if not Path(bind.source).exists():
            raise ContainerError(f"{bind.source} can't be bound into the container: it does not exist")


def check_inside(container: Container, needs: Needs, inside: Inside, environment: Mapping[str, str]) -> None:
    """Go into the image as a rank would, look around, and raise ContainerError for what would not work."""
    mark = f"{uuid.uuid4().hex} "
    places = [f"{'w' if bind.writable else 'r'}:{bind.target}" for bind in inside.binds]
    text = resources.files("hpcbench.cluster").joinpath("inside_image.py").read_text(encoding="utf-8")
    start = ADAPTERS[container.runtime](
        replace(inside, arguments=("-c", text, mark, *places), guarded=False, name=f"{inside.name}-probe")
    )
    done = _run(start, environment)
    answer = next((line for line in done.stdout.splitlines() if line.startswith(mark)), None)
    if answer is None:
        raise ContainerError(_no_answer(container, start, done))
    problem = _problem(needs, json.loads(answer.removeprefix(mark)))
    if problem:
        raise ContainerError(f"the image {container.image}: {problem}")


def _run(start: Start, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            start.argv,
            env={**environment, **start.environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        if start.remove:
            subprocess.run(start.remove, stdin=subprocess.DEVNULL, capture_output=True, check=False)
        raise ContainerError(f"{start.argv[0]}: no answer out of the image in {PROBE_TIMEOUT_S} s") from error
    except OSError as error:
        raise ContainerError(f"{start.argv[0]} can't be run: {error.strerror}") from error


def _no_answer(container: Container, start: Start, done: subprocess.CompletedProcess[str]) -> str:
    said = last_line(done.stderr or done.stdout)
    if "exec format error" in done.stderr.lower():
        return _other_architecture(container, said)
    if NO_PYTHON.search(done.stderr):
        return f"the image {container.image} has no python3: {said}"
    return f"{start.argv[0]} can't start the image {container.image} (exit status {done.returncode}): {said}"


def _other_architecture(container: Container, why: str) -> str:
    return f"the image {container.image} does not run on this machine ({architecture_here()}): {why}"


def _problem(needs: Needs, found: Mapping[str, Any]) -> str | None:
    python = tuple(found["python"])
    if python < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return f"it has Python {'.'.join(map(str, python))}, and hpcbench needs {wanted} or newer"
    if found["hpcbench"] is None:
        return "there is no hpcbench inside; container: {.., inject: true} brings along this machine's"
    mend = "build it anew, or say container: {.., inject: true}"
    if found["hpcbench"] != hpcbench.__version__:
        return f"it has hpcbench {found['hpcbench']}, and this machine has {hpcbench.__version__}: {mend}"
    if found["source"] != source_digest():
        states = f"source {found['source'] or 'older'} there, {source_digest()} here"
        return f"it has hpcbench {found['hpcbench']} in another state than this machine ({states}): {mend}"
    if needs.torch and not found["torch"]:
        return "there is no torch inside"
    folders: dict[str, str | None] = found["folders"]
    wrong = next((f"{path} {problem} from inside" for path, problem in folders.items() if problem), None)
    return wrong or shared_memory_problem(needs.shared_memory_bytes, found["shared_memory_bytes"])


def shared_memory_problem(needed_bytes: int, free_bytes: int | None) -> str | None:
    """Return what is wrong with the size of /dev/shm, or None."""
    if free_bytes is None or free_bytes >= needed_bytes:
        return None
    return (
        f"/dev/shm is too small: {free_bytes // MEBI} MiB are free and {needed_bytes // MEBI} needed. Mount "
        "it larger, or start the container around hpcbench with --ipc=host"
    )


def free_shared_memory() -> int | None:
    """Return the bytes that are free in this machine's /dev/shm, None where there is no such thing."""
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
