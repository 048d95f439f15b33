from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path

import pytest

from hpcbench.launch import machine_queue
from tests.cluster.helpers import eventually

WAIT = """
import sys, time
from pathlib import Path
from hpcbench.launch import machine_queue
job, shared, hold, folder = sys.argv[1], sys.argv[2] == "shared", float(sys.argv[3]), Path(sys.argv[4])
with machine_queue.wait_for_turn(job, Path("results"), shared=shared, folder=folder):
    began = time.time()
    time.sleep(hold)
    print(began, time.time())
"""


def job(folder: Path, name: str, *, shared: bool = False, hold: float = 0.4) -> subprocess.Popen[str]:
    """Start a process that wants the machine, and wait until it stands in the queue."""
    command = [sys.executable, "-c", WAIT, name, "shared" if shared else "alone", str(hold), str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    eventually(
        lambda: (
            process.poll() is not None or any(t.job_id == name for t in machine_queue.read_tickets(folder))
        )
    )
    return process


def held(process: subprocess.Popen[str]) -> tuple[float, float]:
    """Return when a job had the machine."""
    out, _ = process.communicate(timeout=20)
    began, ended = map(float, out.split())
    return began, ended


def test_first_come_first_served_one_at_a_time(tmp_path: Path) -> None:
    """Jobs have the machine one after the other, in the order in which they came."""
    turns = [held(process) for process in [job(tmp_path, name) for name in ("c", "b", "a")]]
    assert all(before[1] <= after[0] for before, after in pairwise(turns))
    assert not machine_queue.read_tickets(tmp_path)


def test_shared_jobs_run_together_and_never_beside_another(tmp_path: Path) -> None:
    """Two jobs with --share overlap; one without waits for both, and a later one with waits for it."""
    first, second = job(tmp_path, "1", shared=True, hold=1), job(tmp_path, "2", shared=True, hold=1)
    alone, last = job(tmp_path, "3"), job(tmp_path, "4", shared=True)
    one, two, three, four = map(held, (first, second, alone, last))
    assert max(one[0], two[0]) < min(one[1], two[1])
    assert max(one[1], two[1]) <= three[0]
    assert three[1] <= four[0]


def test_a_killed_holder_frees_the_machine(tmp_path: Path) -> None:
    """The lock dies with its holder, and a ticket of the dead holds up nobody."""
    holder = job(tmp_path, "killed", hold=60)
    waiting = job(tmp_path, "next", hold=0)
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    held(waiting)


def test_waiting_ends_when_told_to(tmp_path: Path) -> None:
    """A job that is stopped while it waits gets no turn and leaves no ticket."""
    with machine_queue.wait_for_turn("holder", tmp_path, shared=False, folder=tmp_path) as mine:
        assert mine
        until = time.monotonic() + 0.5
        with machine_queue.wait_for_turn(
            "told", tmp_path, shared=False, folder=tmp_path, stopped=lambda: time.monotonic() > until
        ) as turn:
            assert not turn
        assert [ticket.job_id for ticket in machine_queue.read_tickets(tmp_path)] == ["holder"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can be two users")
def test_users_share_one_queue() -> None:
    """A user can wait behind another's job: what the first one has made is open to all."""
    script = (
        "import os\n"
        "from pathlib import Path\n"
        "from hpcbench.launch.machine_queue import queue_folder, wait_for_turn\n"
        "os.setgid({0}); os.setuid({0})\n"
        "with wait_for_turn('{0}', Path('.'), shared=False, folder=queue_folder()): print('mine')\n"
    )
    # Not tmp_path: pytest keeps that to one user.
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "queue"
        Path(name).chmod(0o777)
        for user in (65534, 65533):
            done = subprocess.run(
                [sys.executable, "-c", script.format(user)],
                env=os.environ | {"HPCBENCH_QUEUE_DIR": str(folder)},
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.stdout == "mine\n", done.stderr
        assert folder.stat().st_mode & 0o1777 == 0o1777
