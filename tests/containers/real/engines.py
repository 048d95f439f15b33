"""Docker and podman: how each is set up on a bare machine, builds the image, and runs it as documented."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import hpcbench
from tests.containers.real.lab import (
    BASE,
    REPOSITORY,
    Lab,
    UnavailableError,
    need,
    served,
    stand_in,
    tell,
    unmount,
)

NAME = "localhost/hpcbench-test:cpu"
BUILD_TIMEOUT_S = 3000
PATH = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
IMPORT = 'tar -C "$1" --exclude=./.done --exclude=./.python -c . | podman import -q -c "$2" -c "$3" - "$4"'
CONTAINERS_CONF = """[containers]
default_ulimits = ["nofile=1024:4096", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


@dataclass
class Engine:
    """An engine that has the image. `environment` is what its command needs."""

    name: ClassVar[str] = ""
    lab: Lab
    environment: dict[str, str] = field(default_factory=dict)
    built: bool = False

    @property
    def image(self) -> str:
        """What a sweep file says."""
        return NAME

    def run_argv(
        self, arguments: Sequence[str], results: Path, *, user: int = 0, bare: bool = False
    ) -> list[str]:
        """Return the documented command of a single run, with no network.

        `bare`: with a read-only root and no capability.
        """
        strict = ["--read-only", "--cap-drop", "ALL", "--tmpfs", "/tmp"] if bare else []
        options = ["--rm", "--network", "none", "--ipc", "host", "--user", f"{user}:{user}", *strict]
        return [*self.command, "run", *options, "-v", f"{results}:/results", NAME, *arguments]

    @property
    def command(self) -> list[str]:
        """The engine's command."""
        return [self.name]

    def prepare(self) -> None:
        """Install and start it; raises UnavailableError."""
        raise NotImplementedError

    def build(self) -> None:
        """Build the image."""
        raise NotImplementedError

    def digest(self) -> str:
        """Return what the engine says the image is."""
        found = json.loads(self.call([*self.command, "image", "inspect", NAME]))[0]
        return f"sha256:{found['Id'].removeprefix('sha256:')}"

    def derive(self, tag: str, *lines: str) -> str:
        """Build a small change of the image; returns its name."""
        name = f"localhost/hpcbench-test:{tag}"
        text = "\n".join([f"FROM {NAME}", "USER 0:0", *lines])
        folder = self.lab.folder / "empty"
        folder.mkdir(exist_ok=True)
        self.call([*self.command, "build", "--network", "host", "-t", name, "-f", "-", str(folder)], text)
        return name

    def frozen(self) -> list[str]:
        """Return what pip says is installed."""
        pip = ["-m", "pip", "--python", "/opt/hpcbench/bin/python", "freeze"]
        argv = [*self.command, "run", "--rm", "--network", "none", "--entrypoint", "/usr/local/bin/python3"]
        return self.call([*argv, NAME, *pip]).split()

    def left_over(self) -> list[str]:
        """Return the containers that are still there."""
        return self.call([*self.command, "ps", "--all", "--quiet"]).split()

    def close(self) -> None:
        """Leave nothing running."""

    def call(self, command: Sequence[str], text: str | None = None) -> str:
        """Run a command of the engine that has to work."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.environment},
            input=text if text is not None else "",
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout

    def build_flags(self, *, from_archive: bool = False) -> list[str]:
        """Return --build-arg and its values; Apptainer takes the base from a file."""
        archive = {"BOOTSTRAP": "docker-archive", "BASE": str(self.lab.folder / "base.tar")}
        said = (
            self.lab.build_arguments | {"VERSION": hpcbench.__version__} | (archive if from_archive else {})
        )
        return [word for name, value in said.items() for word in ("--build-arg", f"{name}={value}")]


class Podman(Engine):
    """podman and buildah, with runc and without systemd."""

    name = "podman"

    def prepare(self) -> None:
        need(podman="podman", runc="runc", debootstrap="debootstrap")
        folder = self.lab.folder
        (folder / "containers.conf").write_text(CONTAINERS_CONF)
        storage = f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/storage"\nrunroot = "{folder}/run"\n'
        (folder / "storage.conf").write_text(storage)
        self.environment = {
            "CONTAINERS_CONF": str(folder / "containers.conf"),
            "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        }
        # A build that was killed leaves containers that are mounted and that only --external shows.
        for container in self.call(["podman", "ps", "--all", "--external", "--quiet"]).split():
            self.call(["podman", "rm", "--force", container])
        if not self._has(BASE):
            self._get_base()
        if not (folder / "base.tar").exists():
            tell(
                ["podman", "save", "-q", "--format", "docker-archive", "-o", str(folder / "base.tar"), BASE],
                self.environment,
            )

    def _has(self, image: str) -> bool:
        command = ["podman", "image", "exists", image]
        return subprocess.run(command, env={**os.environ, **self.environment}, check=False).returncode == 0

    def _get_base(self) -> None:
        try:
            tell(["podman", "pull", "-q", BASE], self.environment, timeout_s=120)
        except UnavailableError as error:
            self.lab.note(f"base image: a stand-in, because {error}")
            root = stand_in(self.lab)
            self.call(["sh", "-c", IMPORT, "sh", str(root), f"ENV PATH={PATH}", "ENV LANG=C.UTF-8", BASE])

    def build(self) -> None:
        with served(self.lab.wheels), self.lab.timed("podman build"):
            fixed = ["--format", "docker", "--isolation", "oci", "--network", "host", "--pull=never"]
            self.call(["podman", "build", *fixed, *self.build_flags(), "-t", NAME, str(REPOSITORY)])
        size = json.loads(self.call(["podman", "image", "inspect", NAME]))[0]["Size"]
        self.lab.note(f"podman image: {size / 1e6:,.0f} MB")

    def build_without_torch(self) -> int:
        """Build the flavour without torch; returns its size in bytes."""
        name = "localhost/hpcbench-test:none"
        fixed = ["--format", "docker", "--isolation", "oci", "--network", "host", "--pull=never"]
        with served(self.lab.wheels), self.lab.timed("podman build without torch"):
            self.call(["podman", "build", *fixed, "--build-arg", "FLAVOUR=none", "-t", name, str(REPOSITORY)])
        size = int(json.loads(self.call(["podman", "image", "inspect", name]))[0]["Size"])
        self.lab.note(f"image without torch: {size / 1e6:,.0f} MB")
        return size

    def close(self) -> None:
        for container in self.left_over():
            self.call(["podman", "rm", "--force", container])


class Docker(Engine):
    """The distribution's Docker, started by hand. (A newer client would want a plug-in to build.)"""

    name = "docker"
    program = "/usr/bin/docker"

    @property
    def command(self) -> list[str]:
        return [self.program]

    def prepare(self) -> None:
        need(dockerd="docker.io")
        folder = self.lab.folder / "docker"
        folder.mkdir(exist_ok=True)
        host = f"unix://{folder}/docker.sock"
        self.environment = {
            "DOCKER_HOST": host,
            "DOCKER_BUILDKIT": "1",
            "PATH": f"/usr/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
        }
        (folder / "pidfile").unlink(missing_ok=True)
        places = [f"--{each}={folder}/{each}" for each in ("data-root", "exec-root", "pidfile")]
        daemon = ["dockerd", "--iptables=false", "--ip6tables=false", "--bridge=none", "-H", host, *places]
        with (folder / "log").open("ab") as log:
            self.daemon = subprocess.Popen(
                [*daemon, "--storage-driver=overlay2"],
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for _ in range(120):
            if self._answers():
                break
            if self.daemon.poll() is not None:
                raise UnavailableError(f"dockerd does not start: {(folder / 'log').read_text()[-300:]}")
            time.sleep(0.5)
        else:
            self.close()
            raise UnavailableError("dockerd does not answer")
        tell(
            [self.program, "load", "--quiet", "--input", str(self.lab.folder / "base.tar")], self.environment
        )

    def _answers(self) -> bool:
        command = [self.program, "info"]
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, check=False
        )
        return done.returncode == 0

    def build(self) -> None:
        with served(self.lab.wheels), self.lab.timed("docker build (BuildKit)"):
            self.call(
                [self.program, "build", "--network", "host", *self.build_flags(), "-t", NAME, str(REPOSITORY)]
            )
        size = json.loads(self.call([self.program, "image", "inspect", NAME]))[0]["Size"]
        self.lab.note(f"docker image: {size / 1e6:,.0f} MB")

    def close(self) -> None:
        self.daemon.send_signal(signal.SIGTERM)
        self.daemon.wait(timeout=60)
        unmount(self.lab.folder / "docker")
