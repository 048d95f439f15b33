"""Apptainer: only Debian's unstable has one, so it lives in a root of its own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.containers.real.engines import BUILD_TIMEOUT_S, Engine
from tests.containers.real.lab import REPOSITORY, debootstrap, need, served, tell

# Enters the root in a mount namespace that ends with the process. Apptainer refuses a mere chroot.
INTO_ROOT = """#!/bin/sh
exec unshare --mount --propagation private /bin/sh -c '
here=$PWD
mount --bind "$0" "$0"
for each in /proc /sys /dev /tmp "$HPCBENCH_LAB" "$HPCBENCH_REPOSITORY"; do
    mkdir -p "$0$each"
    mount --rbind "$each" "$0$each"
done
cd "$0" && mkdir -p .outside && pivot_root . .outside && umount --lazy .outside
cd "$here" 2>/dev/null || cd /
user=$HPCBENCH_AS_USER
[ -z "$user" ] || exec setpriv --reuid "$user" --regid "$user" --clear-groups env HOME=/home/bench \\
    /usr/bin/apptainer "$@"
exec /usr/bin/apptainer "$@"' %s "$@"
"""


class Apptainer(Engine):
    """A real Apptainer."""

    name = "apptainer"

    @property
    def image(self) -> str:
        return str(self.lab.folder / "hpcbench.sif")

    def prepare(self) -> None:
        need(debootstrap="debootstrap")
        root = self.lab.folder / "sid"
        debootstrap("sid", root, "apptainer,ca-certificates")
        for name in ("hosts", "resolv.conf"):
            (root / "etc" / name).write_text((Path("/etc") / name).read_text())
        for name in ("subuid", "subgid"):  # for build --fakeroot
            (root / "etc" / name).write_text("root:200000:65536\n")
        if "bench:" not in (root / "etc/passwd").read_text():
            tell(["chroot", str(root), "useradd", "--create-home", "--uid", "1000", "bench"])
        program = self.lab.folder / "bin" / "apptainer"
        program.parent.mkdir(exist_ok=True)
        program.write_text(INTO_ROOT % root)
        program.chmod(0o755)
        self.environment = {
            "PATH": f"{program.parent}:{os.environ['PATH']}",
            "HPCBENCH_LAB": str(self.lab.folder),
            "HPCBENCH_REPOSITORY": str(REPOSITORY),
        }
        self.lab.note(tell(["apptainer", "--version"], self.environment).strip())

    def build(self) -> None:
        with served(self.lab.wheels), self.lab.timed("apptainer build, with its %test"):
            argv = ["apptainer", "build", "--fakeroot", "--force", *self.build_flags(from_archive=True)]
            done = subprocess.run(
                [*argv, self.image, "apptainer.def"],
                cwd=REPOSITORY,
                env={**os.environ, **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=BUILD_TIMEOUT_S,
                check=False,
            )
        assert done.returncode == 0, done.stdout[-4000:]
        assert "records in" in done.stdout, "the definition's own test has done a run"
        self.lab.note(f"SIF file: {Path(self.image).stat().st_size / 1e6:,.0f} MB")

    def run_argv(
        self, arguments: Sequence[str], results: Path, *, user: int = 0, bare: bool = False
    ) -> list[str]:
        inside = ["--containall", "--net", "--network", "none", "--bind", f"{results}:/results"]
        privileges = ["--no-privs"] if user == 0 else []
        who = ["env", f"HPCBENCH_AS_USER={user}"] if user else []
        return [*who, "apptainer", "run", *privileges, *inside, self.image, *arguments]

    def digest(self) -> str:
        return f"sha256:{self.call(['sha256sum', self.image]).split()[0]}"

    def frozen(self) -> list[str]:
        pip = ["/usr/local/bin/python3", "-m", "pip", "--python", "/opt/hpcbench/bin/python", "freeze"]
        return self.call(["apptainer", "exec", "--no-privs", "--containall", self.image, *pip]).split()

    def base_only(self) -> str:
        """Convert the base image, which has Python and no hpcbench; returns the SIF file."""
        path, archive = self.lab.folder / "base.sif", self.lab.folder / "base.tar"
        self.call(["apptainer", "build", "--fakeroot", "--force", str(path), f"docker-archive:{archive}"])
        return str(path)

    def left_over(self) -> list[str]:
        return []
