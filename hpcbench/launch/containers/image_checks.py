"""What an image is (digest, architecture) and whether a run can work in it, checked before any rank is
started.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import re
import shlex
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import hpcbench
from hpcbench.launch.containers.container_engines import (
    ADAPTERS,
    PROGRAMS,
    Bind,
    ContainerCommand,
    ContainerError,
    program_of,
)
from hpcbench.launch.rank_processes import StartCommand
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.run_environment import source_digest
from hpcbench.sweep.run_spec import Container
from hpcbench.tasks.image_index import cache_folder

logger = logging.getLogger(__name__)

INSPECT_TIMEOUT_S = 60
HASHES_FILE = "image-hashes.json"

# Header of a SIF file (github.com/apptainer/sif): 32 bytes of launcher, magic, version, architecture.
SIF_MAGIC_AT, SIF_MAGIC, SIF_ARCHITECTURE_AT = 32, b"SIF_MAGIC\0", 45
SIF_ARCHITECTURES = {b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"06": "ppc64le"}
# What uname calls what images call by Go's names.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


@dataclass(frozen=True, kw_only=True)
class ImageFacts:
    """What is known of an image without entering it; None where that is not known.

    `digest` is `sha256:...`: for docker and podman the image id (the hash of its configuration, which holds
    those of its layers), for a file the hash of the file.
    """

    digest: str | None
    architecture: str | None = None


def inspect_image(container: Container) -> ImageFacts:
    """Find a container's image; raises ContainerError where the runtime or the image is not there."""
    assert container.image is not None
    program = program_of(container.runtime)
    if program is None:
        wanted = " or ".join(PROGRAMS[container.runtime])
        raise ContainerError(f"{container.runtime} is not installed here: no command {wanted}")
    if container.runtime in ("docker", "podman"):
        return _inspect_with_engine(program, container.image)
    if container.runtime == "pyxis":
        _check_pyxis(program)
        if not Path(container.image).is_absolute():
            return ImageFacts(digest=_named_digest(container.image))
    elif "://" in container.image:
        raise ContainerError(
            f"{container.image} is no file, and would be fetched and converted anew: {program} pull it once, "
            "and name the SIF file"
        )
    return _inspect_file(Path(container.image), sif=container.runtime == "apptainer")


def _inspect_with_engine(program: str, image: str) -> ImageFacts:
    done = run_query(program, "image", "inspect", image)
    if done.returncode != 0:
        message = last_line(done.stderr)
        if "no such image" in message.lower() or "image not known" in message.lower():
            raise ContainerError(f"{program} has no image {image}: build it, or {program} pull {image}")
        raise ContainerError(f"{program} can't be asked for the image {image}: {message}")
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return ImageFacts(
        digest=f"sha256:{found['Id'].removeprefix('sha256:')}", architecture=found.get("Architecture") or None
    )


def _inspect_file(path: Path, *, sif: bool) -> ImageFacts:
    if path.is_dir():
        return ImageFacts(digest=None)  # a sandbox may change at any time: it has no hash
    try:
        with path.open("rb") as file:
            head = file.read(64)
        digest = file_digest(path)
    except FileNotFoundError as error:
        raise ContainerError(f"there is no image {path}") from error
    except OSError as error:
        raise ContainerError(f"the image {path} can't be read: {error.strerror}") from error
    is_sif = head[SIF_MAGIC_AT : SIF_MAGIC_AT + len(SIF_MAGIC)] == SIF_MAGIC
    if sif and not is_sif:
        raise ContainerError(f"{path} is not an image of Apptainer (a SIF file)")
    code = head[SIF_ARCHITECTURE_AT : SIF_ARCHITECTURE_AT + 2] if is_sif else b""
    return ImageFacts(digest=digest, architecture=SIF_ARCHITECTURES.get(code))


def _named_digest(reference: str) -> str | None:
    """Return the digest that a reference to a registry pins; a tag says nothing about what was imported."""
    _, _, digest = reference.partition("@")
    return digest if digest.startswith("sha256:") else None


def _check_pyxis(program: str) -> None:
    if "--container-image" not in run_query(program, "--help").stdout:
        raise ContainerError("pyxis is not installed here: srun has no --container-image")


def run_query(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command that answers at once; raises ContainerError where it does not."""
    logger.debug("%s", shlex.join(argv))
    try:
        return subprocess.run(
            argv,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=INSPECT_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ContainerError(f"{' '.join(argv[:3])}: no answer within {INSPECT_TIMEOUT_S} s") from error
    except OSError as error:
        raise ContainerError(f"{argv[0]} can't be run: {error.strerror}") from error


def last_line(text: str) -> str:
    """Return the last line that is not empty."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"


def file_digest(path: Path) -> str:
    """Hash a file, once: the result is kept for as long as inode, size and time of change are the same."""
    found = path.stat()
    key = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
    known = _known_hashes()
    if key not in known:
        with path.open("rb") as file:
            known = known | {key: f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"}
        _store_hashes(known)
    return known[key]


def _known_hashes() -> dict[str, str]:
    try:
        known = json.loads((cache_folder() / HASHES_FILE).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _store_hashes(known: dict[str, str]) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(cache_folder() / HASHES_FILE, json.dumps(known, indent=1))
    except OSError:
        return  # then it is hashed again next time


@functools.cache
def architecture_here() -> str:
    """Return this machine's architecture as images name theirs."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)


PROBE_TIMEOUT_S = 900  # pyxis may have to import a large image first
OLDEST_PYTHON = (3, 11)
MEBIBYTE = 1024 * 1024
SEPARATORS = re.compile(r"[,:\"\n]")  # what the runtimes' notations for folders are made of
NO_PYTHON = re.compile(r"python3.*(not found|no such file)|not found.*python3", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, kw_only=True)
class ImageNeeds:
    """What a run wants of the inside of its image."""

    torch: bool
    shared_memory_bytes: int


def check_image(container: Container, image: ImageFacts) -> None:
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


def check_inside(
    container: Container, needs: ImageNeeds, inside: ContainerCommand, environment: Mapping[str, str]
) -> None:
    """Go into the image as a rank would, look around, and raise ContainerError for what would not work."""
    mark = f"{uuid.uuid4().hex} "
    places = [f"{'w' if bind.writable else 'r'}:{bind.target}" for bind in inside.binds]
    text = (
        resources.files("hpcbench.launch.containers").joinpath("inside_image.py").read_text(encoding="utf-8")
    )
    start = ADAPTERS[container.runtime](
        replace(inside, arguments=("-c", text, mark, *places), guarded=False, name=f"{inside.name}-probe")
    )
    done = _run_probe(start, environment)
    answer = next((line for line in done.stdout.splitlines() if line.startswith(mark)), None)
    if answer is None:
        raise ContainerError(_why_no_answer(container, start, done))
    problem = _image_problem(needs, json.loads(answer.removeprefix(mark)))
    if problem:
        raise ContainerError(f"the image {container.image}: {problem}")


def _run_probe(start: StartCommand, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
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


def _why_no_answer(container: Container, start: StartCommand, done: subprocess.CompletedProcess[str]) -> str:
    message = last_line(done.stderr or done.stdout)
    if "exec format error" in done.stderr.lower():
        return _other_architecture(container, message)
    if NO_PYTHON.search(done.stderr):
        return f"the image {container.image} has no python3: {message}"
    return (
        f"{start.argv[0]} can't start the image {container.image} (exit status {done.returncode}): {message}"
    )


def _other_architecture(container: Container, why: str) -> str:
    return f"the image {container.image} does not run on this machine ({architecture_here()}): {why}"


def _image_problem(needs: ImageNeeds, found: Mapping[str, Any]) -> str | None:
    python = tuple(found["python"])
    if python < OLDEST_PYTHON:
        wanted = ".".join(map(str, OLDEST_PYTHON))
        return f"it has Python {'.'.join(map(str, python))}, and hpcbench needs {wanted} or newer"
    if found["hpcbench"] is None:
        return "there is no hpcbench inside; container: {.., inject: true} brings along this machine's"
    advice = "build it anew, or say container: {.., inject: true}"
    if found["hpcbench"] != hpcbench.__version__:
        return f"it has hpcbench {found['hpcbench']}, and this machine has {hpcbench.__version__}: {advice}"
    if found["source"] != source_digest():
        states = f"source {found['source'] or 'older'} there, {source_digest()} here"
        return f"it has hpcbench {found['hpcbench']} in another state than this machine ({states}): {advice}"
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
        f"/dev/shm is too small: {free_bytes // MEBIBYTE} MiB are free, {needed_bytes // MEBIBYTE} needed. "
        "Mount it larger, or start the container around hpcbench with --ipc=host"
    )


def free_shared_memory() -> int | None:
    """Return the bytes that are free in this machine's /dev/shm, None where there is none.

    inside_image.py has its own: it runs alone in an image.
    """
    try:
        found = os.statvfs("/dev/shm")
    except OSError:
        return None
    return found.f_bavail * found.f_frsize
