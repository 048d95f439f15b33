"""Which image is it really? Asked of the runtime or read from the file, never from a name or a label."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.cluster.containers import PROGRAMS, ContainerError, program_of
from hpcbench.config.spec import Container
from hpcbench.records.writer import write_atomically
from hpcbench.training.data.index import cache_folder

INSPECT_TIMEOUT_S = 60
HASHES = "image-hashes.json"

# Header of a SIF file (github.com/apptainer/sif): 32 bytes of launcher, magic, version, architecture.
SIF_MAGIC_AT, SIF_MAGIC, SIF_ARCHITECTURE_AT = 32, b"SIF_MAGIC\0", 45
SIF_ARCHITECTURES = {b"01": "386", b"02": "amd64", b"03": "arm", b"04": "arm64", b"06": "ppc64le"}
# What uname calls what images call by Go's names.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "armv7l": "arm"}


@dataclass(frozen=True, kw_only=True)
class Image:
    """What is known of an image without entering it; None where nobody can say.

    `digest` is `sha256:...`: for docker and podman the image id (the hash of its configuration, which holds
    those of its layers), for a file the hash of the file.
    """

    digest: str | None
    architecture: str | None = None


def look_at(container: Container) -> Image:
    """Find a container's image; raises ContainerError where the runtime or the image is not there."""
    assert container.image is not None
    program = program_of(container.runtime)
    if program is None:
        wanted = " or ".join(PROGRAMS[container.runtime])
        raise ContainerError(f"{container.runtime} is not installed here: no command {wanted}")
    if container.runtime in ("docker", "podman"):
        return _of_engine(program, container.image)
    if container.runtime == "pyxis":
        _check_pyxis(program)
        if not Path(container.image).is_absolute():
            return Image(digest=_named_digest(container.image))
    elif "://" in container.image:
        raise ContainerError(
            f"{container.image} is no file, and would be fetched and converted anew: {program} pull it once, "
            "and name the SIF file"
        )
    return _of_file(Path(container.image), sif=container.runtime == "apptainer")


def _of_engine(program: str, image: str) -> Image:
    done = ask(program, "image", "inspect", image)
    if done.returncode != 0:
        said = last_line(done.stderr)
        if "no such image" in said.lower() or "image not known" in said.lower():
            raise ContainerError(f"{program} has no image {image}: build it, or {program} pull {image}")
        raise ContainerError(f"{program} can't be asked for the image {image}: {said}")
    found: dict[str, Any] = json.loads(done.stdout)[0]
    return Image(
        digest=f"sha256:{found['Id'].removeprefix('sha256:')}", architecture=found.get("Architecture") or None
    )


def _of_file(path: Path, *, sif: bool) -> Image:
    if path.is_dir():
        return Image(digest=None)  # a sandbox may change under our hands: there is no hash of it
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
    return Image(digest=digest, architecture=SIF_ARCHITECTURES.get(code))


def _named_digest(reference: str) -> str | None:
    """Return the digest that a reference to a registry pins; a tag says nothing about what was imported."""
    _, _, digest = reference.partition("@")
    return digest if digest.startswith("sha256:") else None


def _check_pyxis(program: str) -> None:
    if "--container-image" not in ask(program, "--help").stdout:
        raise ContainerError("pyxis is not installed here: srun has no --container-image")


def ask(*argv: str) -> subprocess.CompletedProcess[str]:
    """Run a command that answers at once; raises ContainerError where it does not."""
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
    """Return the last line that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it says nothing"


def file_digest(path: Path) -> str:
    """Hash a file, once: the result is kept for as long as inode, size and time of change are the same."""
    found = path.stat()
    key = f"{found.st_dev}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
    known = _known_hashes()
    if key not in known:
        with path.open("rb") as file:
            known = known | {key: f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"}
        _keep(known)
    return known[key]


def _known_hashes() -> dict[str, str]:
    try:
        known = json.loads((cache_folder() / HASHES).read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _keep(known: dict[str, str]) -> None:
    try:
        cache_folder().mkdir(parents=True, exist_ok=True)
        write_atomically(cache_folder() / HASHES, json.dumps(known, indent=1))
    except OSError:
        return  # then it is hashed again next time


@functools.cache
def architecture_here() -> str:
    """Return this machine's architecture as images name theirs."""
    machine = os.uname().machine
    return ARCHITECTURES.get(machine, machine)
