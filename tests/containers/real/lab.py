"""A machine with real container engines: packages, a base image, local wheels.

It takes root on Debian, and no systemd. Everything lies in one folder outside of the repository, which stays
for the next time.
"""

from __future__ import annotations

import functools
import http.server
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).parents[3]
BASE = "docker.io/library/python:3.11-slim-bookworm"
# The base image, which is built only once, knows the wheels by this address.
WHEELS_PORT = 18099
# As in Debian's own python images: nobody reads manuals there.
UNREAD = (
    "usr/share/doc",
    "usr/share/man",
    "usr/share/info",
    "usr/share/locale",
    "var/cache/apt",
    "var/lib/apt/lists",
)
LIBRARIES = (
    "ca-certificates,netbase,tzdata,libssl3,libffi8,libsqlite3-0,libreadline8,libbz2-1.0,liblzma5,zlib1g,libuuid1,"
    "libexpat1,libncursesw6"
)


class UnavailableError(Exception):
    """A part that can't be had on this machine, and why."""


@dataclass
class Lab:
    """The work folder, and what was found out on the way."""

    folder: Path
    facts: list[str] = field(default_factory=list)

    def note(self, fact: str) -> None:
        """Keep something for the summary."""
        self.facts.append(fact)

    @contextmanager
    def timed(self, what: str) -> Iterator[None]:
        """Note how long something took."""
        began = time.monotonic()
        yield
        self.note(f"{what}: {time.monotonic() - began:.0f} s")

    @functools.cached_property
    def wheels(self) -> Path | None:
        """The folder of wheels that pip is set up with on this machine, if there is one."""
        command = [sys.executable, "-m", "pip", "config", "get"]
        for name in (":env:.find-links", "global.find-links"):
            done = subprocess.run([*command, name], capture_output=True, text=True, check=False)
            for word in done.stdout.split():
                if done.returncode == 0 and Path(word).is_dir():
                    return Path(word)
        return None

    @property
    def build_arguments(self) -> dict[str, str]:
        """What the images are built with here."""
        local_torch = self.wheels is not None and any(self.wheels.glob("torch-*"))
        return {"BASE": BASE, "FLAVOUR": "cpu"} | ({"CPU_INDEX": ""} if local_torch else {})


def work_folder() -> Path:
    """Return where everything lies."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / "hpcbench-containers"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def need(**packages: str) -> None:
    """Install what is missing: command = Debian package. Raises UnavailableError."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        missing = [command for command in packages if not shutil.which(command)]
        raise UnavailableError(f"it takes root on a Debian machine (missing: {', '.join(missing) or 'root'})")
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    missing = [package for command, package in packages.items() if not shutil.which(command, path=path)]
    if not missing:
        return
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    tell(["apt-get", "update", "-qq"], quiet)
    tell(["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing], quiet)


def tell(command: list[str], environment: Mapping[str, str] | None = None, timeout_s: float = 900) -> str:
    """Run a command that prepares something; raises UnavailableError with its last words."""
    try:
        done = subprocess.run(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise UnavailableError(f"{' '.join(command[:3])}: {error}") from error
    if done.returncode != 0:
        last = " / ".join(done.stdout.strip().splitlines()[-3:])
        raise UnavailableError(f"{' '.join(command[:3])} left with {done.returncode}: {last}")
    return done.stdout


@contextmanager
def served(folder: Path | None) -> Iterator[None]:
    """Serve wheels on loopback while images are built: the one way that every builder understands."""
    if folder is None:
        yield
        return
    handler = functools.partial(_Silent, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", WHEELS_PORT), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


class _Silent(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


def debootstrap(suite: str, target: Path, include: str) -> None:
    """Make a root file system, whole or not at all."""
    if (target / ".done").exists():
        return
    # Never followed into mounts: a root may have some in it after a crash.
    subprocess.run(["rm", "-rf", "--one-file-system", str(target)], check=True)
    need(debootstrap="debootstrap")
    tell(["debootstrap", "--variant=minbase", f"--include={include}", suite, str(target)])
    for name in UNREAD:
        subprocess.run(
            ["find", str(target / name), "-mindepth", "1", "-delete"], check=False, capture_output=True
        )
    (target / ".done").touch()


def stand_in(lab: Lab) -> Path:
    """Return a root like that of the base image: a small Debian 12 with this machine's own CPython."""
    root = lab.folder / "base"
    if not (root / ".python").exists():
        with lab.timed("stand-in for the base image"):
            debootstrap("bookworm", root, LIBRARIES)
            _copy_python(root / "usr/local")
            _configure_pip(lab, root)
        (root / ".python").touch()
    return root


def _copy_python(target: Path) -> None:
    prefix, name = Path(sys.base_prefix), f"python{sys.version_info.major}.{sys.version_info.minor}"
    left_out = ("site-packages", "__pycache__", "test", "tests", "idlelib", "tkinter", "config-3*", "*.a")

    def skip(folder: str, names: list[str]) -> set[str]:
        return set(shutil.ignore_patterns(*left_out)(folder, names))

    shutil.copytree(
        prefix / "lib" / name, target / "lib" / name, ignore=skip, symlinks=True, dirs_exist_ok=True
    )
    shutil.copytree(prefix / "include" / name, target / "include" / name, dirs_exist_ok=True)
    for library in (prefix / "lib").glob("libpython3*.so*"):
        shutil.copy2(library, target / "lib", follow_symlinks=False)
    shutil.copy2(prefix / "bin" / name, target / "bin")
    for link, to in (("python3", name), ("python", "python3")):
        (target / "bin" / link).unlink(missing_ok=True)
        (target / "bin" / link).symlink_to(to)
    (target / "lib" / name / "site-packages").mkdir(exist_ok=True)
    root = str(target.parents[1])
    tell(["chroot", root, "ldconfig"])
    tell(["chroot", root, "/usr/local/bin/python3", "-m", "ensurepip", "--default-pip"])
    _slim(target)


def _slim(target: Path) -> None:
    """Do to this Python what Debian's images do to theirs, so that sizes can be compared."""
    if shutil.which("strip"):
        libraries = [str(path) for path in target.rglob("*.so*") if path.is_file() and not path.is_symlink()]
        subprocess.run(["strip", "--strip-unneeded", *libraries], check=False, capture_output=True)
    for folder in list(target.rglob("__pycache__")):
        shutil.rmtree(folder)


def _configure_pip(lab: Lab, root: Path) -> None:
    """Give the image what this machine needs to reach its package index: authorities, a pip.conf."""
    certificates = Path("/usr/local/share/ca-certificates")
    for each in certificates.glob("*.crt"):
        shutil.copy2(each, root / certificates.relative_to("/"))
    tell(["chroot", str(root), "update-ca-certificates"])
    lines = ["[global]", "cert = /etc/ssl/certs/ca-certificates.crt"]
    if lab.wheels is not None:
        lines.append(f"find-links = http://127.0.0.1:{WHEELS_PORT}/")
    (root / "etc/pip.conf").write_text("\n".join(lines) + "\n")


def unmount(folder: Path) -> None:
    """Remove every mount below a folder, the innermost first."""
    mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
    for each in sorted((each for each in mounts if each.startswith(f"{folder}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", each], check=False, capture_output=True)


def scratch() -> Path:
    """Return a new folder for results that any user may write to."""
    folder = Path(tempfile.mkdtemp(prefix="results.", dir=work_folder()))
    folder.chmod(0o1777)
    return folder


def machine_facts() -> str:
    """Say what this was measured on."""
    return f"{platform.platform()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}"
