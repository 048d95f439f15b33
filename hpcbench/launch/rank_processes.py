"""The rank processes of a run on this node: starting, watching and ending them, and the message queue of
their supervisor.
"""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from types import FrameType
from typing import Any, Protocol

from hpcbench.errors import InputError

logger = logging.getLogger(__name__)

WORKER_ARGUMENTS = ("-m", "hpcbench.training.worker")
WORKER_COMMAND = (sys.executable, *WORKER_ARGUMENTS)
PR_SET_PDEATHSIG = 1

# Signals that end a process for a cause of its own. SIGABRT is not among them: gloo and NCCL abort where a
# peer has gone.
PRIMARY_SIGNALS = frozenset({signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE})

# What an exit status above 128 says where a container's runtime passes on how a rank ended. A rank that was
# asked to stop leaves with such a status by itself (hpcbench.training.worker): that is none of these.
EXIT_STATUS_SIGNALS = {128 + number: number for number in (*PRIMARY_SIGNALS, signal.SIGABRT)}
REMOVE_TIMEOUT_S = 60

# Kills the process groups that it was given when the supervisor is gone. A rank itself dies by
# PDEATHSIG; what a rank has started, such as the processes that load data, does not inherit that.
GUARD_COMMAND = (
    "/bin/sh",
    "-c",
    'while read -r group; do all="$all -$group"; done; kill -s KILL -- $all 2>/dev/null',
)


class RankStartError(InputError):
    """A rank can't be started, such as in an image that can't be used."""


@dataclass(frozen=True, kw_only=True)
class StartCommand:
    """A process to start. An adapter's `environment` is what comes on top of that of the runtime's command.

    `contained`: it passes on how the rank ended as an exit status. `client`: it is not the rank's parent, and
    its standard input is the pipe that the rank's life hangs on and from which it reads signals. `remove`
    ensures that the container is gone.
    """

    argv: tuple[str, ...]
    environment: Mapping[str, str]
    contained: bool = False
    client: bool = False
    remove: tuple[str, ...] | None = None


@dataclass(frozen=True)
class RankExit:
    """A rank has ended: with `code`, by `signal`, or in an unknown way because its node is `lost`."""

    rank: int
    time_ns: int
    code: int | None
    signal: signal.Signals | None
    lost: str | None = None

    def __str__(self) -> str:
        if self.lost:
            return f"its node {self.lost} has gone"
        return f"was killed by {self.signal.name}" if self.signal else f"left with exit status {self.code}"


class RankSet(Protocol):
    """The processes of a run, on whatever nodes; `LocalRanks` are those of one node."""

    def start(self, rank: int, environment: Mapping[str, str], log: Path) -> None:
        """Start a rank."""

    def watch(self) -> None:
        """Report the ends of ranks from now on."""

    def send_signal(self, ranks: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to ranks."""

    def kill(self) -> None:
        """End all that is left of them."""

    def finish(self) -> None:
        """Leave nothing behind."""


class NodeObserver(Protocol):
    """Measures this node while ranks work."""

    def start(self, sessions: Collection[int]) -> None:
        """Begin; the ranks lead these sessions."""

    def stop(self) -> None:
        """End."""


class RankRuntime(Protocol):
    """Where the ranks of this node run: on the machine itself, or in containers."""

    def start(self, rank: int, environment: Mapping[str, str]) -> StartCommand:
        """Return how to start a rank that is to see this environment."""


class BareRuntime:
    """No container."""

    def start(self, rank: int, environment: Mapping[str, str]) -> StartCommand:
        """Return the worker, as it is."""
        return StartCommand(argv=WORKER_COMMAND, environment=environment)


class OrphanGuard:
    """A process that outlives a killed supervisor just long enough to kill the processes left behind."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            GUARD_COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            text=True,
        )

    def add_group(self, group: int) -> None:
        """Add a process group."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{group}\n")
        self._process.stdin.flush()

    def stop(self) -> None:
        """Nothing is left to guard."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdin is not None
        self._process.stdin.close()


class LocalRanks:
    """The started processes of a run. Each leads a session and process group of its own.

    They are collected (waited for) only in `finish`: until then a dead rank's number can't become that of an
    innocent process group.
    """

    def __init__(
        self,
        report: Callable[[RankExit], None],
        runtime: Callable[[], RankRuntime] = BareRuntime,
        observer: NodeObserver | None = None,
    ) -> None:
        self._report = report
        self._observer = observer
        # Now and not at the first start: what it takes is no part of any rank's time.
        self._refused: RankStartError | None = None
        try:
            self._runtime = runtime()
        except RankStartError as error:
            self._refused = error
        self._guard = OrphanGuard()
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._starts: dict[int, StartCommand] = {}

    def start(self, rank: int, environment: Mapping[str, str], log: Path) -> None:
        """Start a rank; it prints into `log`. Raises RankStartError where that is not possible."""
        if self._refused:
            raise self._refused
        start = self._starts[rank] = self._runtime.start(rank, environment)
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as output:
            self._processes[rank] = subprocess.Popen(
                start.argv,
                env=dict(start.environment),
                stdin=subprocess.PIPE if start.client else subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()),
            )
        self._guard.add_group(self._processes[rank].pid)

    def watch(self) -> None:
        """Report each rank's end at once. Called when all are started: no thread lives while one forks."""
        for rank, process in self._processes.items():
            threading.Thread(target=self._wait_for, args=(rank, process.pid), daemon=True).start()
        if self._observer and self._processes:
            self._observer.start([process.pid for process in self._processes.values()])

    def _wait_for(self, rank: int, pid: int) -> None:
        try:
            ended = os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            return  # `finish` came first: an error has cut the run short
        assert ended is not None
        by_itself = ended.si_code == os.CLD_EXITED
        code = ended.si_status if by_itself else None
        number = None if by_itself else signal.Signals(ended.si_status)
        if self._starts[rank].contained and ended.si_status in EXIT_STATUS_SIGNALS:
            code, number = None, EXIT_STATUS_SIGNALS[ended.si_status]
        self._report(RankExit(rank, time.time_ns(), code, number))

    def send_signal(self, ranks: Sequence[int], number: signal.Signals) -> None:
        """Send a signal to ranks, not to what they have started.

        A container's client reads it from the pipe: a scheduler that signals all processes of a job at once
        also ends the helper by which podman would pass a signal on, and srun kills its tasks on SIGTERM.
        """
        for rank in ranks:
            process = self._processes[rank]
            if process.stdin is None:
                os.kill(process.pid, number)  # not Popen.send_signal: that collects a rank that has ended
                continue
            with suppress(BrokenPipeError):  # the client has gone, and the rank with it
                os.write(process.stdin.fileno(), bytes([number]))

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
        for rank, process in self._processes.items():
            killed = process.wait() < 0
            if process.stdin is not None:
                process.stdin.close()
            if killed:
                _remove_container(self._starts[rank])
        self._guard.stop()
        if self._observer:
            self._observer.stop()


def _remove_container(start: StartCommand) -> None:
    """Make sure that a container whose client has been killed is gone."""
    if start.remove is None:
        return
    try:
        subprocess.run(
            start.remove,
            env=dict(start.environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=REMOVE_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        logger.warning("%s: %s", " ".join(start.remove), error)


def _die_with_parent(parent: int) -> Callable[[], None]:
    """Return what a child does before it becomes a rank: ask the kernel to kill it when its parent dies."""
    libc = ctypes.CDLL(None, use_errno=True)

    def prepare() -> None:
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL.value, 0, 0, 0)
        if os.getppid() != parent:
            os._exit(1)  # it died while we were asking

    return prepare


# More than ranks listen to (training/session.py): what ends a terminal comes only to the supervisor.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
DUPLICATE_SIGNAL_S = 1.0


class SupervisorInbox:
    """Messages to the supervisor, and whether it was asked to stop.

    SimpleQueue.put may be called from a signal handler, even while the same thread is inside `get`.
    """

    def __init__(self) -> None:
        self.messages: SimpleQueue[Any] = SimpleQueue()
        self.stopped_by: signal.Signals | None = None
        self._last: tuple[signal.Signals | None, float] = (None, 0.0)

    def listen(self) -> None:
        """Take signals as messages from now on; main thread only."""
        for each in STOP_SIGNALS:
            signal.signal(each, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.handle_signal(signal.Signals(number))

    def handle_signal(self, number: signal.Signals) -> None:
        """Take a signal as if it had been sent to this process."""
        self.stopped_by = self.stopped_by or number
        before, self._last = self._last, (number, time.monotonic())
        # A scheduler signals each node of a job, and each passes it on: that is one request, not several.
        if before[0] is not number or self._last[1] - before[1] > DUPLICATE_SIGNAL_S:
            self.messages.put(number)

    def stopped(self) -> bool:
        """Return whether a signal has come."""
        return self.stopped_by is not None

    def wait_for_message(self) -> Any:
        """Wait for a message: a RankExit, a signal, or a message of another supervisor."""
        return self.messages.get()

    def next_message(self, timeout_s: float) -> RankExit | signal.Signals | None:
        """Wait for a message; None if there was none in time."""
        try:
            message: RankExit | signal.Signals = self.messages.get(timeout=max(0.0, timeout_s))
        except Empty:
            return None
        return message
