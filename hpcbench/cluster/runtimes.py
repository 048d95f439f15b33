"""The container part of `hpcbench doctor`: which runtimes are here, and what they lack."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hpcbench.cluster.checkup import Check, State
from hpcbench.cluster.containers import ContainerError, program_of
from hpcbench.cluster.images import ask, last_line
from hpcbench.config.spec import Runtime

AREA = "containers"
CDI = (Path("/etc/cdi"), Path("/var/run/cdi"))
USER_NAMESPACES = Path("/proc/sys/user/max_user_namespaces")
# Debian's and Ubuntu's own switches; other kernels do not have them.
SWITCHES = {
    Path("/proc/sys/kernel/unprivileged_userns_clone"): "1",
    Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"): "0",
}
TRY_TIMEOUT_S = 300


def check_runtimes(*, gpus: bool) -> list[Check]:
    """Look at every runtime that a sweep can name."""
    found = [_apptainer(), _engine("docker"), _engine("podman"), _pyxis()]
    there = {check.name for check in found if check.state is not State.ABSENT}
    return [
        *found,
        *(_gpus_in_containers(there) if gpus else ()),
        *(_user_namespaces(there) if os.geteuid() != 0 else ()),
    ]


def _apptainer() -> Check:
    program = program_of("apptainer")
    if program is None:
        return _absent("apptainer", "no command apptainer or singularity")
    return _asked("apptainer", program, "--version")


def _engine(name: Runtime) -> Check:
    program = program_of(name)
    if program is None:
        return _absent(name, f"no command {name}")
    version = _asked(name, program, "--version")
    answer = _asked(name, program, "info")
    if answer.state is State.WRONG:
        mend = "Is its daemon running, and may you talk to it?" if name == "docker" else "See podman info"
        return Check(area=AREA, name=name, state=State.WRONG, found=answer.found, advice=mend)
    return version


def _pyxis() -> Check:
    if program_of("pyxis") is None:
        return _absent("pyxis", "no command srun")
    try:
        there = "--container-image" in ask("srun", "--help").stdout
    except ContainerError as error:
        return Check(area=AREA, name="pyxis", state=State.WRONG, found=str(error))
    return (
        Check(area=AREA, name="pyxis", state=State.FINE, found="srun has --container-image")
        if there
        else _absent("pyxis", "srun has no --container-image")
    )


def _absent(name: str, why: str) -> Check:
    return Check(area=AREA, name=name, state=State.ABSENT, found=why)


def _asked(name: str, *command: str) -> Check:
    try:
        done = ask(*command)
    except ContainerError as error:
        return Check(area=AREA, name=name, state=State.WRONG, found=str(error))
    if done.returncode:
        return Check(area=AREA, name=name, state=State.WRONG, found=last_line(done.stderr or done.stdout))
    return Check(area=AREA, name=name, state=State.FINE, found=last_line(done.stdout))


def _gpus_in_containers(there: set[str]) -> Iterator[Check]:
    """Look for what hands GPUs to docker (the toolkit) and to podman (CDI files); apptainer needs neither."""
    toolkit = shutil.which("nvidia-ctk") or shutil.which("nvidia-container-cli")
    if "docker" in there:
        yield Check(
            area=AREA,
            name="GPUs in docker",
            state=State.FINE if toolkit else State.WRONG,
            found=toolkit or "nvidia-container-toolkit is missing",
            advice=None
            if toolkit
            else "Install nvidia-container-toolkit, then: nvidia-ctk runtime configure",
        )
    if "podman" in there:
        files = [str(path) for folder in CDI for path in folder.glob("nvidia*")]
        yield Check(
            area=AREA,
            name="GPUs in podman",
            state=State.FINE if files else State.WRONG,
            found=", ".join(files) or "no CDI description of the GPUs",
            advice=None if files else "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml",
        )


def _user_namespaces(there: set[str]) -> Iterator[Check]:
    """Look for what containers without root rest on."""
    if not there & {"podman", "apptainer"}:
        return
    closed = [
        str(path) for path, open_ in SWITCHES.items() if path.exists() and path.read_text().strip() != open_
    ]
    if USER_NAMESPACES.exists() and USER_NAMESPACES.read_text().strip() == "0":
        closed.append(str(USER_NAMESPACES))
    yield Check(
        area=AREA,
        name="user namespaces",
        state=State.WRONG if closed else State.FINE,
        found=f"switched off by {', '.join(closed)}" if closed else "allowed",
        advice="Only an administrator can allow them; an apptainer installed with setuid does without"
        if closed
        else None,
    )
    user = pwd.getpwuid(os.getuid()).pw_name
    try:
        mapped = any(line.startswith(f"{user}:") for line in Path("/etc/subuid").read_text().splitlines())
    except OSError:
        mapped = False
    mapped = mapped and shutil.which("newuidmap") is not None
    yield Check(
        area=AREA,
        name="fakeroot",
        state=State.FINE if mapped else State.WRONG,
        found="newuidmap and a range in /etc/subuid"
        if mapped
        else f"no ids for {user} in /etc/subuid, or no newuidmap",
        advice=None
        if mapped
        else "An administrator: usermod --add-subuids 200000-265535 (and gids), package uidmap",
    )


def try_out(runtime: str, image: str) -> Check:
    """Do a run of two ranks in an image, as any run would be done."""
    with tempfile.TemporaryDirectory(prefix="hpcbench-doctor-") as folder:
        settings = {"container.runtime": runtime, "container.image": image, "epochs": 2}
        command = [
            sys.executable,
            "-m",
            "hpcbench",
            "run",
            "--strategy",
            "ddp",
            "--ranks",
            "2",
            "--out",
            f"{folder}/run",
        ]
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
            return Check(
                area=AREA,
                name=f"a run in {runtime}",
                state=State.WRONG,
                found=f"not done in {TRY_TIMEOUT_S} s",
            )
    return Check(
        area=AREA,
        name=f"a run in {runtime}",
        state=State.WRONG if done.returncode else State.FINE,
        found=last_line(done.stderr if done.returncode else done.stdout).removeprefix("hpcbench: "),
    )
