"""The processes of a run on this node: how they are started, watched and ended, all of them, always."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

WORKER = (sys.executable, "-m", "hpcbench.training.worker")
PR_SET_PDEATHSIG = 1

# Signals that end a process for a cause of its own. SIGABRT is not among them: gloo and NCCL abort where a
# peer has gone.
OWN_CAUSE = frozenset({signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})

# Kills the process groups that it has been told of when the supervisor is gone. A rank itself dies by
# PDEATHSIG; what a rank has started, such as the processes that load data, does not inherit that.
GUARD = (
    "/bin/sh",
    "-c",
    'while read -r group; do all="$all -$group"; done; kill -s KILL -- $all 2>/dev/null',
)


@dataclass(frozen=True)
class Exit:
    """A rank has ended: with `code`, or by `signal`."""

    rank: int
    time_ns: int
    code: int | None
    signal: signal.Signals | None

    def __str__(self) -> str:
        return f"was killed by {self.signal.name}" if self.signal else f"left with exit status {self.code}"


class Guard:
    """A process that outlives a killed supervisor just long enough to end what that has left behind."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            GUARD,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def watch_over(self, group: int) -> None:
        """Add a process group."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{group}\n")
        self._process.stdin.flush()

    def dismiss(self) -> None:
        """Nothing is left to guard."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


class Ranks:
    """The started processes of a run. Each leads a session and process group of its own.

    They are collected (waited for) only in `finish`: until then a dead rank's number can't become that of an
    innocent process group.
    """

    def __init__(self, report: Callable[[Exit], None]) -> None:
        self._report = report
        self._guard = Guard()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, rank: int, environment: Mapping[str, str], log: Path) -> None:
        """Start a rank; it prints into `log`."""
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._processes[rank] = subprocess.Popen(
                WORKER,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        self._guard.watch_over(self._processes[rank].pid)

    def watch(self) -> None:
        """Report each rank's end at once. Called when all are started: no thread lives while one forks."""
        for rank, process in self._processes.items():
            threading.Thread(target=self._wait_for, args=(rank, process.pid), daemon=True).start()

    def _wait_for(self, rank: int, pid: int) -> None:
        try:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # `finish` came first: an error has cut the run short
        assert ended is not None
        by_itself = ended.si_code == os.CLD_EXITED
        code = ended.si_status if by_itself else None
        self._report(Exit(rank, time.time_ns(), code, None if by_itself else signal.Signals(ended.si_status)))

    def tell(self, ranks: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to ranks, not to what they have started."""
        for rank in ranks:
            # Not Popen.send_signal: that collects a rank that has ended.
            os.kill(self._processes[rank].pid, number)

    def kill(self) -> None:
        """End all that is left of the ranks and of what they have started."""
        for process in self._processes.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue  # nothing but the dead rank itself is left of the group

    def finish(self) -> None:
        """Leave nothing behind."""
        self.kill()
        for process in self._processes.values():
            process.wait()
        self._guard.dismiss()


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes a rank: ask the kernel to kill it when its parent dies."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it died while we were asking

    return prepare
