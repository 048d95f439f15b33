"""Identity of a process across machines and restarts, so that another process can tell whether it is still
alive.
"""

from __future__ import annotations

import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from hpcbench.runs.record_writer import write_atomically

PROC = Path("/proc")
STAT_STATE, STAT_START_TIME = 0, 19  # fields 3 and 22 of proc(5) stat, counted after the command's name


@dataclass(frozen=True, kw_only=True)
class ProcessIdentity:
    """A process of some machine, so that another process can tell later whether it still lives.

    `boot_id` changes with every start of the machine, `namespace` names the set of pids that `pid` belongs to
    (a container has its own), `start_ticks` is when the process began, in clock ticks since boot.
    """

    host: str
    boot_id: str
    namespace: str
    pid: int
    start_ticks: int

    @classmethod
    def of(cls, pid: int) -> Self:
        """Identify a living process of this machine; raises ProcessLookupError where there is none."""
        ticks = _start_ticks(pid)
        if ticks is None:
            raise ProcessLookupError(pid)
        return cls(
            host=this_host(), boot_id=_boot_id(), namespace=_pid_namespace(), pid=pid, start_ticks=ticks
        )

    @classmethod
    def current(cls) -> Self:
        """Identify this process."""
        return cls.of(os.getpid())

    def alive(self) -> bool | None:
        """Return whether it lives; None where that is not known here (another machine or container)."""
        if self.host != this_host():
            return None
        if self.boot_id != _boot_id():
            return False
        if self.namespace != _pid_namespace():
            return None
        return _start_ticks(self.pid) == self.start_ticks


def _boot_id() -> str:
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def _pid_namespace() -> str:
    return str((PROC / "self/ns/pid").readlink())


def _start_ticks(pid: int) -> int | None:
    """Return when a process began; None for one that is gone, or dead and only not yet collected."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[STAT_STATE] in "ZX" else int(fields[STAT_START_TIME])


def this_host() -> str:
    """Return the name of this machine; inside a job of Slurm the one that Slurm has for it."""
    return os.environ.get("SLURMD_NODENAME") or platform.node()


def write_identity(path: Path, pid: int | None = None) -> None:
    """Note which process this is, or which has the number `pid`."""
    identity = ProcessIdentity.of(os.getpid() if pid is None else pid)
    write_atomically(path, json.dumps(asdict(identity)))


def read_identity(path: Path) -> ProcessIdentity | None:
    """Return the identity in a file, or None where there is none."""
    try:
        return ProcessIdentity(**json.loads(path.read_text()))
    except FileNotFoundError:
        return None
