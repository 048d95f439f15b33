"""Checks of the container runtimes on this machine, and a trial run in an image."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpcbench.doctor.machine_checks import CheckResult, CheckState
from hpcbench.launch.containers.container_engines import ContainerError, program_of
from hpcbench.launch.containers.image_checks import last_line, run_query
from hpcbench.sweep.run_spec import Runtime

CONTAINER_AREA = "containers"
CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
# Debian's and Ubuntu's own switches; other kernels do not have them.
USERNS_SWITCHES = {
    Path("/proc/sys/kernel/unprivileged_userns_clone"): "1",
    Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"): "0",
}
TRY_TIMEOUT_S = 300


def check_runtimes(*, gpus: bool) -> list[CheckResult]:
    """Look at every runtime that a sweep can name."""
    found = [_apptainer_check(), _engine_check("docker"), _engine_check("podman"), _pyxis_check()]
    there = {check.name for check in found if check.state is not CheckState.ABSENT}
    return [
        *found,
        *(_gpu_checks(there) if gpus else ()),
        *(_userns_checks(there) if os.geteuid() != 0 else ()),
    ]


def _apptainer_check() -> CheckResult:
    program = program_of("apptainer")
    if program is None:
        return _absent_check("apptainer", "no command apptainer or singularity")
    return _query_check("apptainer", program, "--version")


def _engine_check(name: Runtime) -> CheckResult:
    program = program_of(name)
    if program is None:
        return _absent_check(name, f"no command {name}")
    version = _query_check(name, program, "--version")
    answer = _query_check(name, program, "info")
    if answer.state is CheckState.WRONG:
        advice = "Is its daemon running, and may you talk to it?" if name == "docker" else "See podman info"
        return CheckResult(CONTAINER_AREA, name, CheckState.WRONG, answer.found, advice)
    return version


def _pyxis_check() -> CheckResult:
    if program_of("pyxis") is None:
        return _absent_check("pyxis", "no command srun")
    try:
        there = "--container-image" in run_query("srun", "--help").stdout
    except ContainerError as error:
        return CheckResult(CONTAINER_AREA, "pyxis", CheckState.WRONG, str(error))
    return (
        CheckResult(CONTAINER_AREA, "pyxis", CheckState.FINE, "srun has --container-image")
        if there
        else _absent_check("pyxis", "srun has no --container-image")
    )


def _absent_check(name: str, why: str) -> CheckResult:
    return CheckResult(CONTAINER_AREA, name, CheckState.ABSENT, why)


def _query_check(name: str, *command: str) -> CheckResult:
    try:
        done = run_query(*command)
    except ContainerError as error:
        return CheckResult(CONTAINER_AREA, name, CheckState.WRONG, str(error))
    if done.returncode:
        return CheckResult(CONTAINER_AREA, name, CheckState.WRONG, last_line(done.stderr or done.stdout))
    return CheckResult(CONTAINER_AREA, name, CheckState.FINE, last_line(done.stdout))


def _gpu_checks(there: set[str]) -> Iterator[CheckResult]:
    """Look for what hands GPUs to docker (the toolkit) and to podman (CDI files); apptainer needs neither."""
    toolkit = shutil.which("nvidia-ctk") or shutil.which("nvidia-container-cli")
    if "docker" in there:
        yield CheckResult(
            CONTAINER_AREA,
            "GPUs in docker",
            CheckState.FINE if toolkit else CheckState.WRONG,
            toolkit or "nvidia-container-toolkit is missing",
            None if toolkit else "Install nvidia-container-toolkit, then: nvidia-ctk runtime configure",
        )
    if "podman" in there:
        files = [str(path) for folder in CDI_FOLDERS for path in folder.glob("nvidia*")]
        yield CheckResult(
            CONTAINER_AREA,
            "GPUs in podman",
            CheckState.FINE if files else CheckState.WRONG,
            ", ".join(files) or "no CDI description of the GPUs",
            None if files else "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        )


def _userns_checks(there: set[str]) -> Iterator[CheckResult]:
    """Look for what containers without root rest on."""
    if not there & {"podman", "apptainer"}:
        return
    closed = [
        str(path)
        for path, open_ in USERNS_SWITCHES.items()
        if path.exists() and path.read_text().strip() != open_
    ]
    if USER_NAMESPACES.exists() and USER_NAMESPACES.read_text().strip() == "0":
        closed.append(str(USER_NAMESPACES))
    yield CheckResult(
        CONTAINER_AREA,
        "user namespaces",
        CheckState.WRONG if closed else CheckState.FINE,
        f"switched off by {', '.join(closed)}" if closed else "allowed",
        "Only an administrator can allow them; an apptainer installed with setuid does without"
        if closed
        else None,
    )
    user = pwd.getpwuid(os.getuid()).pw_name
    try:
        mapped = any(line.startswith(f"{user}:") for line in Path("/etc/subuid").read_text().splitlines())
    except OSError:
        mapped = False
    mapped = mapped and shutil.which("newuidmap") is not None
    yield CheckResult(
        CONTAINER_AREA,
        "fakeroot",
        CheckState.FINE if mapped else CheckState.WRONG,
        "newuidmap and a range in /etc/subuid"
        if mapped
        else f"no ids for {user} in /etc/subuid, or no newuidmap",
        None
        if mapped
        else "An administrator: usermod --add-subuids 200000-265535 (and gids), package uidmap",
    )


def try_image(runtime: str, image: str) -> CheckResult:
    """Do a run of two ranks in an image, as any run would be done."""
    with tempfile.TemporaryDirectory(prefix="hpcbench-doctor-") as folder:
        settings = {"container.runtime": runtime, "container.image": image, "epochs": 2}
        command = [sys.executable, "-m", "hpcbench", "run", "--strategy", "ddp", "--ranks", "2"]
        command += ["--out", f"{folder}/run"]
        command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TRY_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return CheckResult(
                CONTAINER_AREA, f"a run in {runtime}", CheckState.WRONG, f"not done in {TRY_TIMEOUT_S} s"
            )
    return CheckResult(
        CONTAINER_AREA,
        f"a run in {runtime}",
        CheckState.WRONG if done.returncode else CheckState.FINE,
        last_line(done.stderr if done.returncode else done.stdout).removeprefix("hpcbench: "),
    )
