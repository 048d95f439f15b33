from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from hpcbench.launch.rank_processes import BareRuntime, SupervisorInbox
from hpcbench.launch.supervisor import Assignment, supervise
from hpcbench.runs.claim import Claim, claim_next, latest_claim
from hpcbench.runs.events import Interrupted, RunFailed, RunStarted, Telemetry
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.results_folder import FIRST_NODE, RunFolder, StoredRun, read_spec_file
from hpcbench.sweep.run_spec import RunSpec
from tests.cluster.helpers import Lab, eventually, injected, noop, slow

NOOP = "from hpcbench.training.noop_loop import NoopStrategy\n"
SUPERVISE = """
import sys
from pathlib import Path
from tests.cluster.test_supervisor import task_of
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.supervisor import supervise
supervise(task_of(Path(sys.argv[1])), SupervisorInbox())
"""


def task_of(folder: Path, spec: RunSpec | None = None, **environment: str) -> Assignment:
    """Claim a run; without a spec, the one that stands in the folder."""
    run = RunFolder(folder)
    if spec is not None:
        StoredRun(spec=spec).write(run)
    return Assignment(
        spec=read_spec_file(run).spec,
        claim=claim_next(run, read_spec_file(run).spec, "job"),
        threads=1,
        data=None,
        warnings=["a warning"],
        environment=os.environ | environment,
        runtime=BareRuntime,
    )


def supervisors_word(claim: Claim) -> RunFailed | Interrupted:
    """Return the one event besides telemetry that the supervisor has written."""
    records = read_events(claim.folder.supervisor_events(claim.attempt, FIRST_NODE)).records
    (record,) = (record for record in records if not isinstance(record.event, Telemetry))
    assert isinstance(record.event, RunFailed | Interrupted)
    assert record.rank is None
    return record.event


def once_training(lab: Lab, spec: RunSpec, folder: Path, act: object) -> None:
    """Do something when all ranks have written their first window, from a thread beside the supervisor."""

    def wait() -> None:
        run = RunFolder(folder)
        files = [run.events(1, rank) for rank in range(spec.ranks)]
        eventually(lambda: all(file.exists() and b'"steps"' in file.read_bytes() for file in files))
        assert callable(act)
        act()

    threading.Thread(target=wait).start()


def pid_of(lab: Lab, rank: int) -> int:
    """Return the process of a rank."""
    return next(p.pid for p in lab.ranks() if f'"rank": {rank},' in p.environ()["HPCBENCH_PLACEMENT"])


def test_a_run_that_finishes(lab: Lab) -> None:
    """All ranks run, each knows its place and warnings, and the claim says how it ended."""
    task = task_of(lab.folder / "run", noop(ranks=3), RANK="7", SLURM_PROCID="7")
    assert supervise(task, SupervisorInbox()).state == "finished"
    claim = latest_claim(task.claim.folder)
    assert claim is not None and claim.ending is not None and claim.ending.state == "finished"
    started = [read_events(task.claim.folder.events(1, rank)).records[0].event for rank in range(3)]
    for event in started:
        assert isinstance(event, RunStarted)
        assert event.warnings == ["a warning"] and event.processes == 3
        assert event.environment["variables"]["OMP_NUM_THREADS"] == "1"
    record = task.claim.folder.supervisor_events(1, FIRST_NODE)
    said = read_events(record).records if record.exists() else []
    assert all(isinstance(each.event, Telemetry) for each in said)


def test_a_rank_that_raises_ends_its_peers(lab: Lab) -> None:
    """The failing rank's own error is the run's, with its last lines, and its peers are gone in 5 s."""
    fail = f"{NOOP}if rank == 0: NoopStrategy.step = lambda self, index: 1 / 0\n"
    environment = injected(lab.folder / "fault", fail)
    task = task_of(lab.folder / "run", slow(noop(ranks=3)), **environment)
    began = time.monotonic()
    ending = supervise(task, SupervisorInbox())
    assert time.monotonic() - began < 5
    assert ending.state == "failed" and ending.reason.startswith("rank 0: ZeroDivisionError")
    word = supervisors_word(task.claim)
    assert isinstance(word, RunFailed)
    assert (word.failed_rank, word.exit_code, word.phase) == (0, 1, "train")
    assert "ZeroDivisionError: division by zero" in word.last_lines[-1]
    assert not lab.ranks()


def test_a_killed_rank_is_the_cause_and_not_what_follows(lab: Lab) -> None:
    """When a rank is killed and a peer raises at once in consequence, the run failed by the kill."""
    follow = (
        f"{NOOP}import time\n"
        f"gone = {str(lab.folder / 'gone')!r}\n"
        "def step(self, index):\n"
        "    if os.path.exists(gone): raise ConnectionResetError('by peer')\n"
        "    time.sleep(0.01)\n"
        "if rank == 1: NoopStrategy.step = step\n"
    )
    spec = slow(noop())
    task = task_of(lab.folder / "run", spec, **injected(lab.folder / "fault", follow))

    def kill() -> None:
        pid = pid_of(lab, 0)
        (lab.folder / "gone").touch()
        time.sleep(0.005)
        os.kill(pid, signal.SIGKILL)

    once_training(lab, spec, lab.folder / "run", kill)
    ending = supervise(task, SupervisorInbox())
    assert ending.reason == "rank 0: was killed by SIGKILL"
    word = supervisors_word(task.claim)
    assert isinstance(word, RunFailed) and (word.failed_rank, word.signal) == (0, "SIGKILL")


def test_leaving_with_status_0_is_not_finishing(lab: Lab) -> None:
    """A rank that leaves early without an error is a failure that names it."""
    leave = "import threading\nif rank == 1: threading.Timer(0.3, os._exit, (0,)).start()\n"
    task = task_of(lab.folder / "run", slow(noop()), **injected(lab.folder / "fault", leave))
    ending = supervise(task, SupervisorInbox())
    assert ending.state == "failed"
    assert ending.reason == "rank 1: left with exit status 0 before it had finished"


def test_the_time_limit(lab: Lab) -> None:
    """A run over its time limit is ended and has failed, and its records up to there are readable."""
    task = task_of(lab.folder / "run", slow(noop(time_limit="00:00:01")))
    began = time.monotonic()
    ending = supervise(task, SupervisorInbox())
    assert 1 <= time.monotonic() - began < 6
    assert (ending.state, ending.reason) == ("failed", "time limit of 00:00:01 reached")
    assert read_events(task.claim.folder.events(1, 0)).records


def test_ranks_that_do_not_listen_are_killed_in_time(lab: Lab) -> None:
    """A rank that does not end when told to is killed, and is not taken for the cause."""
    deaf = (
        "import signal, threading\n"
        "if rank == 0: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
        "if rank == 1: threading.Timer(0.5, os._exit, (3,)).start()\n"
    )
    task = task_of(lab.folder / "run", slow(noop()), **injected(lab.folder / "fault", deaf))
    began = time.monotonic()
    ending = supervise(task, SupervisorInbox())
    assert time.monotonic() - began < 0.5 + 5
    assert ending.reason == "rank 1: left with exit status 3"
    assert not lab.ranks()


def test_a_signal_interrupts_the_run(lab: Lab) -> None:
    """A signal to the supervisor reaches the ranks, which write that they were interrupted."""
    spec = slow(noop())
    task, inbox = task_of(lab.folder / "run", spec), SupervisorInbox()
    once_training(lab, spec, lab.folder / "run", lambda: inbox.messages.put(signal.SIGUSR2))
    ending = supervise(task, inbox)
    assert (ending.state, ending.reason) == ("interrupted", "stopped by SIGUSR2")
    assert isinstance(supervisors_word(task.claim), Interrupted)
    for rank in range(2):
        assert isinstance(read_events(task.claim.folder.events(1, rank)).records[-1].event, Interrupted)


def test_nothing_outlives_a_killed_supervisor(lab: Lab) -> None:
    """A SIGKILL of the supervisor ends its ranks, and what these have started themselves."""
    child = "import subprocess\nif rank == 0: subprocess.Popen(['sleep', '600'])\n"
    spec = slow(noop())
    StoredRun(spec=spec).write(RunFolder(lab.folder / "run"))
    process = subprocess.Popen(
        [sys.executable, "-c", SUPERVISE, str(lab.folder / "run")],
        env=lab.environment | injected(lab.folder / "fault", child),
    )
    eventually(lambda: len(lab.ranks()) == 3)  # the sleeping child has a rank's environment
    sleeping = [p for p in lab.ranks() if p.name() == "sleep"]
    assert [p.status() for p in sleeping] == [psutil.STATUS_SLEEPING]
    process.kill()
    process.wait()
    eventually(lambda: not lab.leftovers(), within_s=2)
    claim = latest_claim(RunFolder(lab.folder / "run"))
    assert claim is not None and claim.owner_alive() is False
