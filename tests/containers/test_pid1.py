"""The first process of a rank's container, as a plain process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

PID1 = (sys.executable, "-m", "hpcbench.training.pid1")
WAITS = "import signal, sys, time\nprint('ready', flush=True)\ntime.sleep(60)"


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Collect processes, and end what a test has left of them."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        with process:
            pass


def start(processes: list[subprocess.Popen[str]], code: str) -> subprocess.Popen[str]:
    """Start Python under a first process, with its standard input held open by us."""
    process = subprocess.Popen([*PID1, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    processes.append(process)
    return process


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("import os; os.kill(os.getpid(), 9)", 137),
        ("import os; os.abort()", 134),
    ],
)
def test_passes_on_how_it_ended(started: list[subprocess.Popen[str]], code: str, status: int) -> None:
    """The exit status is the rank's, or 128 and the signal that ended it."""
    assert start(started, code).wait(timeout=20) == status


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_hands_signals_on(started: list[subprocess.Popen[str]], number: signal.Signals) -> None:
    """A signal reaches the rank, which ends as it sees fit."""
    code = f"import signal, sys\nsignal.signal({int(number)}, lambda *_: sys.exit(42))\n{WAITS}"
    process = start(started, code)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    assert process.wait(timeout=20) == 42


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_come_by_the_pipe(started: list[subprocess.Popen[str]], number: signal.Signals) -> None:
    """A byte on the pipe is the number of a signal for the rank."""
    code = f"import signal, sys\nsignal.signal({int(number)}, lambda *_: sys.exit(42))\n{WAITS}"
    process = start(started, code)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdin.write(chr(number))
    process.stdin.flush()
    assert process.wait(timeout=20) == 42


def test_ends_with_its_client(started: list[subprocess.Popen[str]]) -> None:
    """When the client that holds its input is gone, it and the rank end, and what the rank has started."""
    child = "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])"
    code = f"import subprocess, sys\n{child}\n{WAITS}"
    process = start(started, code)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    below = psutil.Process(process.pid).children(recursive=True)
    assert len(below) == 2
    process.stdin.close()
    assert process.wait(timeout=20) == 137
    _, living = psutil.wait_procs(below, timeout=10)
    assert living == []


def test_input_does_not_reach_the_rank(started: list[subprocess.Popen[str]]) -> None:
    """What else arrives on the pipe is dropped; the rank has no input."""
    process = start(started, "import sys, time\nprint(repr(sys.stdin.read()))\ntime.sleep(0.5)")
    assert process.stdin is not None
    process.stdin.write("something")
    process.stdin.flush()
    assert process.stdout is not None
    assert process.stdout.readline() == "''\n"
    assert process.wait(timeout=20) == 0
