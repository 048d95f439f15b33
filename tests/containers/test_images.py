"""What is known of an image, and what is wrong with it, with runtimes that answer as real ones do."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import hpcbench
from hpcbench.launch.containers import image_checks
from hpcbench.launch.containers.container_engines import Bind, ContainerError
from hpcbench.launch.containers.image_checks import (
    architecture_here,
    check_binds,
    file_digest,
    inspect_image,
    shared_memory_problem,
)
from hpcbench.launch.containers.rank_containers import ContainerRuntime, prepare_containers
from hpcbench.runs.run_environment import source_digest
from hpcbench.sweep.run_spec import Container, RunSpec

ID = "1f" * 32
OTHER_ARCHITECTURE = {"amd64": "arm64"}.get(architecture_here(), "amd64")
SIF_CODES = {"amd64": b"02", "arm64": b"04"}

# Answers `image inspect` and runs the command of a container on the machine itself.
ENGINE = """#!{python}
import json, os, sys
words = sys.argv[1:]
if words[:2] == ["image", "inspect"]:
    if words[2] != "there":
        sys.exit("Error: No such image: " + words[2])
    print(json.dumps([{{"Id": {id!r}, "Architecture": {architecture!r}}}]))
elif {complaint!r}:
    print({complaint!r}, file=sys.stderr)
    sys.exit(125)
else:
    arguments = words[words.index("there") + 1:]
    arguments = arguments[2:] if "hpcbench.training.pid1" in arguments else arguments
    for word, value in zip(words, words[1:]):
        if word == "--env":
            name, _, text = value.partition("=")
            os.environ[name] = text
    os.chdir(words[words.index("--workdir") + 1])
    os.environ["PYTHONPATH"] = {pythonpath!r}
    os.execv({python!r}, [{python!r}, *arguments])
"""

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Return what puts a podman on the path that answers as told."""
    monkeypatch.setenv("HPCBENCH_CACHE", str(tmp_path / "cache"))

    def put(*, architecture: str = architecture_here(), complaint: str = "", pythonpath: str = "") -> None:
        path = tmp_path / "bin" / "podman"
        path.parent.mkdir(exist_ok=True)
        text = ENGINE.format(
            python=sys.executable,
            id=ID,
            architecture=architecture,
            complaint=complaint,
            pythonpath=pythonpath or os.environ.get("PYTHONPATH", ""),
        )
        path.write_text(text)
        path.chmod(0o755)
        monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)

    return put


def run_in(folder: Path, image: str = "there", runtime: str = "podman", **fields: object) -> ContainerRuntime:
    """Make ready to start the ranks of a run in a container."""
    folder.mkdir(exist_ok=True)
    container = Container(runtime=runtime, image=image)  # type: ignore[arg-type]
    spec = RunSpec(name="run", strategy="ddp", container=container, **fields)  # type: ignore[arg-type]
    return prepare_containers(spec, folder, None, os.environ)


def refusal(folder: Path, **fields: object) -> str:
    """Return the message with which a run is refused."""
    with pytest.raises(ContainerError) as caught:
        run_in(folder, **fields)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_digest_is_the_runtimes(install: Install, tmp_path: Path) -> None:
    """The digest in a rank's environment is the engine's, whatever the submitter's environment says."""
    install()
    ready = run_in(tmp_path / "run")
    assert ready.digest == f"sha256:{ID}"
    argv = ready.start(3, {"HPCBENCH_IMAGE_DIGEST": "sha256:stale", "NCCL_DEBUG": "INFO", "SECRET": "x"}).argv
    assert f"HPCBENCH_IMAGE_DIGEST=sha256:{ID}" in argv
    assert "NCCL_DEBUG=INFO" in argv
    assert not [word for word in argv if "stale" in word or "SECRET" in word]
    assert argv[argv.index("--name") + 1].endswith("-3")


def test_runtime_not_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A runtime that is not there is named with the commands that were looked for."""
    monkeypatch.setenv("PATH", str(tmp_path))
    message = refusal(tmp_path / "run", runtime="apptainer", image="/x.sif")
    assert message == "apptainer is not installed here: no command apptainer or singularity"


def test_image_missing(install: Install, tmp_path: Path) -> None:
    """An image that the engine does not have is named with what gets it."""
    install()
    message = refusal(tmp_path / "run", image="absent")
    assert message == "podman has no image absent: build it, or podman pull absent"


def test_other_architecture(install: Install, tmp_path: Path) -> None:
    """An image for other processors is refused before it is started, with both named."""
    install(architecture=OTHER_ARCHITECTURE)
    message = refusal(tmp_path / "run")
    assert OTHER_ARCHITECTURE in message
    assert architecture_here() in message


def test_other_version_inside(install: Install, tmp_path: Path) -> None:
    """Another hpcbench inside is refused with both versions."""
    other = tmp_path / "other" / "hpcbench"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text('__version__ = "9.9"\n')
    install(pythonpath=str(other.parent))
    message = refusal(tmp_path / "run")
    assert f"it has hpcbench 9.9, and this machine has {hpcbench.__version__}" in message
    assert "inject: true" in message


def test_same_version_of_another_state_inside(install: Install, tmp_path: Path) -> None:
    """An image of an earlier state of the same version is refused: its ranks may not understand this one."""
    other = tmp_path / "other"
    shutil.copytree(Path(hpcbench.__file__).parent, other / "hpcbench", ignore_dangling_symlinks=True)
    install(pythonpath=str(other))
    run_in(tmp_path / "run")
    (other / "hpcbench/cli/__init__.py").write_text("changed = True\n")
    run_in(tmp_path / "run")
    with (other / "hpcbench/training/worker.py").open("a") as file:
        file.write("changed = True\n")
    message = refusal(tmp_path / "run")
    assert "in another state than this machine" in message and f"{source_digest()} here" in message
    (other / "hpcbench/runs/run_environment.py").write_text("raise ImportError\n")
    assert "source older there" in refusal(tmp_path / "run")


def test_no_hpcbench_inside(install: Install, tmp_path: Path) -> None:
    """An image without hpcbench is refused with the word that brings it along."""
    broken = tmp_path / "broken" / "hpcbench"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('not here')\n")
    install(pythonpath=str(broken.parent))
    assert "no hpcbench inside" in refusal(tmp_path / "run")


@pytest.mark.parametrize(
    "complaint",
    [
        'Error: runc: exec: "python3": executable file not found in $PATH: OCI runtime not found',
        "FATAL:   exec python3 failed: No such file or directory: python3 not found",
    ],
)
def test_no_python_inside(install: Install, tmp_path: Path, complaint: str) -> None:
    """An image without Python is said to have none, in whatever words the runtime says so."""
    install(complaint=complaint)
    assert refusal(tmp_path / "run").startswith("the image there has no python3: ")


def test_engine_that_complains(install: Install, tmp_path: Path) -> None:
    """Whatever else an engine complains about is passed on, with its exit status."""
    install(complaint="Error: something of its own")
    message = refusal(tmp_path / "run")
    assert message == "podman can't start the image there (exit status 125): Error: something of its own"


def test_results_not_writable(install: Install, tmp_path: Path) -> None:
    """A run folder that can't be written to from inside is named, and nothing is left in it."""
    install()
    (tmp_path / "file").write_text("")  # root may write into any folder, but not into a file
    spec = RunSpec(name="run", strategy="ddp", container=Container(runtime="podman", image="there"))
    with pytest.raises(ContainerError, match=r"file can't be written to: .* from inside"):
        prepare_containers(spec, tmp_path / "file", None, os.environ)


def test_data_that_is_not_there(install: Install, tmp_path: Path) -> None:
    """A folder that is to be bound and does not exist is named."""
    install()
    spec = RunSpec(name="run", strategy="ddp", container=Container(runtime="podman", image="there"))
    with pytest.raises(ContainerError, match="/no/such/set can't be bound into the container: it does not"):
        prepare_containers(spec, tmp_path, "/no/such/set", os.environ)


@pytest.mark.parametrize("name", ["a,b", "a:b", 'a"b'])
def test_names_that_cannot_be_bound(tmp_path: Path, name: str) -> None:
    """A name with a separator of the runtimes' notations is refused instead of misread."""
    (tmp_path / name).mkdir()
    with pytest.raises(ContainerError, match="a comma, colon or quote"):
        check_binds([Bind(source=str(tmp_path / name), target="/x")])


def test_shared_memory_too_small(install: Install, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A /dev/shm that is smaller than the ranks need is refused, with both sizes and what to do."""
    install()
    monkeypatch.setattr("hpcbench.launch.containers.rank_containers.SHARED_MEMORY_BYTES", 1 << 60)
    message = refusal(tmp_path / "run")
    assert "/dev/shm is too small" in message
    assert "--ipc=host" in message
    assert shared_memory_problem(64, 64) is None
    assert shared_memory_problem(64, None) is None


def test_sif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIF file tells its architecture, and its digest is that of the file."""
    pretend_apptainer(tmp_path, monkeypatch)
    path = sif(tmp_path / "image.sif", SIF_CODES[architecture_here()])
    found = inspect_image(Container(runtime="apptainer", image=str(path)))
    assert found.architecture == architecture_here()
    assert found.digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_sif_of_another_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SIF file for other processors is refused."""
    pretend_apptainer(tmp_path, monkeypatch)
    path = sif(tmp_path / "image.sif", SIF_CODES[OTHER_ARCHITECTURE])
    assert OTHER_ARCHITECTURE in refusal(tmp_path / "run", runtime="apptainer", image=str(path))


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("/no/such.sif", "there is no image /no/such.sif"),
        ("docker://python:3.11", "apptainer pull it once"),
        (__file__, "is not an image of Apptainer"),
    ],
)
def test_no_sif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, image: str, message: str) -> None:
    """What is no SIF file is refused with what it is instead."""
    pretend_apptainer(tmp_path, monkeypatch)
    assert message in refusal(tmp_path / "run", runtime="apptainer", image=image)


def test_unreadable_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An image that may not be read is refused with the reason."""
    pretend_apptainer(tmp_path, monkeypatch)

    def no_permission(path: Path) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(image_checks, "file_digest", no_permission)  # root may read everything
    path = sif(tmp_path / "image.sif", b"02")
    message = refusal(tmp_path / "run", runtime="apptainer", image=str(path))
    assert message == f"the image {path} can't be read: Permission denied"


def test_a_file_is_hashed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hash is kept until the file changes."""
    monkeypatch.setenv("HPCBENCH_CACHE", str(tmp_path / "cache"))
    path = sif(tmp_path / "image.sif", b"02")
    first = file_digest(path)
    kept = tmp_path / "cache" / image_checks.HASHES_FILE
    kept.write_text(kept.read_text().replace(first, "sha256:kept"))
    assert file_digest(path) == "sha256:kept"
    path.write_bytes(b"something else")
    assert file_digest(path) == f"sha256:{hashlib.sha256(b'something else').hexdigest()}"
    assert len(json.loads(kept.read_text())) == 2


def test_pyxis_is_no_part_of_every_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An srun without the plug-in is said to lack it."""
    program(tmp_path, monkeypatch, "srun", "echo usage")
    message = refusal(tmp_path / "run", runtime="pyxis", image="nvcr.io#nvidia/pytorch:25.01-py3")
    assert message == "pyxis is not installed here: srun has no --container-image"


def test_pyxis_digests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An imported image is hashed; a name has a digest only where it pins one."""
    program(tmp_path, monkeypatch, "srun", "echo --container-image")
    path = tmp_path / "image.sqsh"
    path.write_bytes(b"hsqs")
    assert digest_of(str(path)) == f"sha256:{hashlib.sha256(b'hsqs').hexdigest()}"
    assert digest_of("nvcr.io#nvidia/pytorch:25.01-py3") is None
    assert digest_of(f"nvcr.io#nvidia/pytorch@sha256:{ID}") == f"sha256:{ID}"


def digest_of(image: str) -> str | None:
    """Return the digest of an image for pyxis."""
    return inspect_image(Container(runtime="pyxis", image=image)).digest


def sif(path: Path, code: bytes) -> Path:
    """Write the header of a SIF file."""
    path.write_bytes(
        b"#!/usr/bin/env run-singularity\n".ljust(32, b"\0") + b"SIF_MAGIC\0" + b"01\0" + code + b"\0" * 80
    )
    return path


def pretend_apptainer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put an apptainer on the path that is never to be started."""
    program(folder, monkeypatch, "apptainer", "exit 99")
    monkeypatch.setenv("HPCBENCH_CACHE", str(folder / "cache"))


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, script: str) -> None:
    """Put a program on the path."""
    path = folder / "bin" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(path.parent), prepend=os.pathsep)
    monkeypatch.setenv("HPCBENCH_CACHE", str(folder / "cache"))
