from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HPCBENCH = (sys.executable, "-m", "hpcbench")
SCRIPTS = {
    "docker": 'case "$1" in --version) echo Docker version 99;; *) echo Cannot connect >&2; exit 1;; esac',
    "podman": "echo podman version 99",
    "apptainer": "echo apptainer version 99",
    "srun": "echo usage: srun --container-image",
    "sbatch": "exit 0",
    "scontrol": "echo Slurmctld is UP",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return a folder for programs, the only one that is searched."""
    folder = tmp_path / "bin"
    folder.mkdir()
    return folder


def put(folder: Path, *names: str) -> None:
    """Put programs on the path that answer as real ones do."""
    for name in names:
        (folder / name).write_text(f"#!/bin/sh\n{SCRIPTS[name]}\n")
        (folder / name).chmod(0o755)


def doctor(folder: Path, *options: str, **environment: str) -> tuple[int, dict[str, Mapping[str, Any]]]:
    """Return the exit status of `hpcbench doctor`, and its checks by area and name."""
    done = subprocess.run(
        [*HPCBENCH, "doctor", "--json", *options],
        env={"PATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    checks = json.loads(done.stdout)["checks"]
    return done.returncode, {f"{check['area']}/{check['name']}": check for check in checks}


def test_a_bare_machine(path: Path) -> None:
    """A machine without Slurm and containers lacks nothing, and the machine itself is described."""
    status, checks = doctor(path)
    absent = {name for name, check in checks.items() if check["state"] == "absent"}
    assert {"containers/apptainer", "containers/docker", "containers/pyxis", "slurm/Slurm"} <= absent
    assert checks["machine/cores"]["state"] == "fine"
    assert "gloo" in checks["torch/backends"]["found"]
    assert status == int(any(check["state"] == "wrong" for check in checks.values()))


def test_what_is_there_and_answers(path: Path) -> None:
    """Runtimes and a scheduler that answer are fine; a daemon that does not is wrong, with what to do."""
    put(path, *SCRIPTS)
    status, checks = doctor(path)
    found = {name: check["state"] for name, check in checks.items()}
    assert {found[f"containers/{name}"] for name in ("podman", "apptainer", "pyxis")} == {"fine"}
    assert found["slurm/Slurm"] == "fine"
    assert found["containers/docker"] == "wrong"
    assert checks["containers/docker"]["found"] == "Cannot connect"
    assert "daemon" in checks["containers/docker"]["advice"]
    assert status == 1


def test_data(path: Path, tmp_path: Path) -> None:
    """The data folder is looked at, and one that is not there is wrong."""
    (tmp_path / "sets" / "cifar100").mkdir(parents=True)
    _, checks = doctor(path, HPCBENCH_DATA=str(tmp_path / "sets"))
    assert "cifar100" in checks["data/folder"]["found"]
    status, checks = doctor(path, "--data", "/no/such/folder")
    assert (status, checks["data/folder"]["state"]) == (1, "wrong")


def test_a_try_that_fails(path: Path) -> None:
    """An image that can't be used is wrong, with the reason that a run would give."""
    status, checks = doctor(path, "--try", "podman=localhost/absent")
    assert status == 1
    assert "podman is not installed here" in checks["containers/a run in podman"]["found"]


def test_a_try_that_is_not_understood(path: Path) -> None:
    """An image without its runtime is refused with how it is said."""
    command = [*HPCBENCH, "doctor", "--try", "localhost/hpcbench"]
    done = subprocess.run(command, env={"PATH": str(path)}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "RUNTIME=IMAGE" in done.stderr


def test_people_get_a_table(path: Path) -> None:
    """Without --json one line a check is printed."""
    done = subprocess.run(
        [*HPCBENCH, "doctor"], env={"PATH": str(path)}, capture_output=True, text=True, check=False
    )
    assert "/dev/shm" in done.stdout
    assert "absent" in done.stdout
