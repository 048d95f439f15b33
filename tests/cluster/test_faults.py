"""Whole submissions with the real command, and what goes wrong with them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hpcbench.catalog import CATALOG
from hpcbench.launch.submission import SubmitRequest, load_submission, submit_pending
from hpcbench.runs.claim import latest_claim
from hpcbench.runs.events import RunStarted
from hpcbench.runs.placement import PLACEMENT_VARIABLE
from hpcbench.runs.record_reader import Record, read_events
from tests.cluster.helpers import Lab, eventually, injected

BAD = {"name": "bad", "strategy_options": {"step_s": 0.01, "fail_at_step": 5}}
PYTHON = (sys.executable, "-c")
ENDLESS = {"name": "endless", "steps": 100_000}


def records(lab: Lab, name: str, *, rank: int = 0, attempt: int = 1, sweep: str = "sweep") -> list[Record]:
    """Return what a rank has written."""
    return read_events(lab.results(sweep).run(name, 0).events(attempt, rank)).records


def waiting_submit(lab: Lab, sweep: Path) -> subprocess.Popen[str]:
    """Submit and wait in the background, until a run has done its first steps."""
    process = lab.start("submit", sweep, "--executor", "local", "--results", "results")
    eventually(lambda: process.poll() is not None or lab.steps_done(sweep.stem))
    return process


def test_a_failed_run_does_not_end_the_others(lab: Lab) -> None:
    """The others run on; the failure is shown with its last lines, and the exit status says so."""
    runs: list[dict[str, Any]] = [{"name": "first"}, BAD, {"name": "last"}]
    done = lab.run("submit", lab.sweep(*runs), "--results", "results", "--executor", "local")
    assert done.returncode == 1, done.stderr
    assert "asked to fail at step 5" in done.stderr
    assert "first" in done.stdout and "last" in done.stdout
    states = lab.states()
    assert {key: run.state for key, run in states.items()} == {
        "bad/r0": "failed",
        "first/r0": "done",
        "last/r0": "done",
    }
    assert states["bad/r0"].failed_rank in (0, 1)
    assert "PretendedFailureError" in states["bad/r0"].last_lines[-1]


def test_submitted_again_only_what_is_not_done_is_done(lab: Lab) -> None:
    """A second submission does what is new and what has failed, and leaves alone what is done."""
    lab.submit(lab.sweep({"name": "first"}, BAD))
    lab.submit(lab.sweep({"name": "first"}, BAD, {"name": "new"}))
    assert Counter(lab.attempts()) == {"first/r0": 1, "bad/r0": 2, "new/r0": 1}


def test_retry_completes_a_sweep(lab: Lab) -> None:
    """When the cause of a failure is gone, `retry` does what is missing, and nothing else."""
    fault = injected(lab.folder / "fault", "if rank == 1: os._exit(7)\n")
    states = lab.submit(lab.sweep({"name": "one", "ranks": 1}, {"name": "two"}), **fault)
    assert (states["one/r0"].state, states["two/r0"].state) == ("done", "failed")
    assert states["two/r0"].reason == "rank 1: left with exit status 7"
    assert lab.run("retry", lab.results().path, "--detach").returncode == 0
    states = lab.settled()
    assert {run.state for run in states.values()} == {"done"}
    assert (states["one/r0"].attempt, states["two/r0"].attempt) == (1, 2)


def test_ctrl_c_leaves_records_and_no_process(lab: Lab) -> None:
    """Ctrl-C stops the job and its ranks; what was written is readable, and the runs say why they stopped."""
    process = waiting_submit(lab, lab.sweep(ENDLESS, {"name": "later"}))
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert time.monotonic() - began < 7
    assert process.returncode == 130, err
    assert not lab.leftovers()
    assert "Traceback" not in err
    states = lab.states()
    assert states["endless/r0"].state == "interrupted"
    assert states["endless/r0"].reason == "stopped by SIGINT (Ctrl-C)"
    assert states["later/r0"].state == "cancelled"
    assert isinstance(records(lab, "endless")[0].event, RunStarted)


def test_ctrl_c_while_submitting(lab: Lab) -> None:
    """A Ctrl-C that comes before there is anything to wait for leaves no process either."""
    sweep = lab.sweep(ENDLESS)
    for delay_s in (0.1, 0.4, 0.7):
        process = lab.start("submit", sweep, "--results", "results")
        time.sleep(delay_s)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=20)
        assert process.returncode in (130, -signal.SIGINT)  # the latter while Python itself starts
        eventually(lambda: not lab.leftovers(), within_s=1)


def test_a_killed_rank(lab: Lab) -> None:
    """A rank killed with SIGKILL fails its run with rank and signal, and the next run goes on."""
    lab.run("submit", lab.sweep(ENDLESS, {"name": "next"}), "--results", "results", "--detach")
    eventually(lab.steps_done)
    lab.ranks()[0].kill()
    states = lab.settled()
    assert states["endless/r0"].state == "failed"
    assert states["endless/r0"].reason.endswith("was killed by SIGKILL")
    assert states["next/r0"].state == "done"


def test_a_hanging_rank(lab: Lab) -> None:
    """A rank that stops answering ends its run by the process group's time-out, and the next run goes on."""
    trains = {"strategy": "ddp", "dataset": "digits", "model": "smallconv", "timeout_s": 5}
    sweep = lab.sweep({"name": "hangs", "steps": 100_000} | trains, {"name": "next"}, strategy_options={})
    queued = lab.run("submit", sweep, "--results", "results", "--detach")
    assert queued.returncode == 0, queued.stderr
    eventually(lab.steps_done, within_s=60)
    last = max(lab.ranks(), key=lambda process: json.loads(process.environ()[PLACEMENT_VARIABLE])["rank"])
    last.suspend()
    states = lab.settled()
    assert states["hangs/r0"].state == "failed"
    assert states["hangs/r0"].failed_rank == 0
    assert "another rank did not answer within timeout_s, 5 s (" in states["hangs/r0"].reason
    assert not last.is_running()
    assert states["next/r0"].state == "done"


def test_a_killed_job_is_lost_and_can_be_retried(lab: Lab) -> None:
    """A job that ends without a record takes its ranks along; its runs are lost, until they are retried."""
    sweep = lab.sweep({"name": "a", "steps": 300}, {"name": "b"})
    lab.run("submit", sweep, "--results", "results", "--detach")
    eventually(lab.steps_done)
    claim = latest_claim(lab.results().run("a", 0))
    assert claim is not None
    os.kill(claim.owner.pid, signal.SIGKILL)
    eventually(lambda: not lab.leftovers(), within_s=3)
    states = lab.settled()
    assert states["a/r0"].state == "lost" and "ended without a record" in states["a/r0"].reason
    assert states["b/r0"].state == "lost" and "before it came" in states["b/r0"].reason
    assert "no run" in lab.run("retry", lab.results().path, "--failed").stderr
    assert lab.run("retry", lab.results().path, "--lost", "--detach").returncode == 0
    states = lab.settled()
    assert {run.state for run in states.values()} == {"done"}
    assert states["a/r0"].attempt == 2


def test_cancel_from_elsewhere(lab: Lab) -> None:
    """`cancel` ends a detached job: the running run is interrupted, the rest cancelled."""
    left = lab.run("submit", lab.sweep(ENDLESS, {"name": "later"}), "--results", "results", "--detach")
    assert left.returncode == 0 and left.stdout.startswith("job ")
    eventually(lab.steps_done)
    running = lab.states()
    assert running["endless/r0"].state == "running"
    assert running["later/r0"].state == "pending" and running["later/r0"].queued
    assert lab.run("cancel", lab.results().path).returncode == 0
    assert not lab.leftovers()
    states = lab.states()
    assert (states["endless/r0"].state, states["later/r0"].state) == ("interrupted", "cancelled")
    assert states["endless/r0"].reason == "stopped by SIGTERM (cancelled)"


def test_a_file_that_may_not_grow(lab: Lab) -> None:
    """A rank that can't write its records any more fails its run; the records before stay readable."""
    limit = "import resource\nif rank == 1: resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\n"
    fault = injected(lab.folder / "fault", limit)
    states = lab.submit(lab.sweep({"name": "full", "steps": 400}, {"name": "next", "ranks": 1}), **fault)
    assert states["full/r0"].state == "failed" and states["next/r0"].state == "done"
    assert states["full/r0"].failed_rank == 1
    assert "File too large" in "".join(states["full/r0"].last_lines)
    assert len(records(lab, "full", rank=1)) > 1


@pytest.mark.skipif(os.getuid() != 0, reason="only root can mount a small file system")
def test_a_full_disk(lab: Lab) -> None:
    """On a full disk the run fails, and status says so although not even the supervisor can write."""
    disk = lab.results().path / "runs"
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(disk)], check=True)
    try:
        full = lab.submit(lab.sweep({"name": "full", "steps": 2000, "ranks": 1}))["full/r0"]
        assert full.state == "failed" and "No space left" in full.reason
        assert len(records(lab, "full")) > 1
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_two_submitters_at_once(lab: Lab) -> None:
    """Two people who submit one sweep at one time get each run done once."""
    sweep = lab.sweep({"name": "a"}, {"name": "b"})
    both = [lab.start("submit", sweep, "--results", "results", "--detach") for _ in range(2)]
    ended = [process.communicate(timeout=40) for process in both]
    assert [process.returncode for process in both] == [0, 0], ended
    assert {run.state for run in lab.settled().values()} == {"done"}
    assert Counter(lab.attempts()) == {"a/r0": 1, "b/r0": 1}


def test_two_jobs_with_the_same_runs(lab: Lab) -> None:
    """Even when two jobs have the same runs before them, each run is done once."""
    lab.submit(lab.sweep({"name": "a", "steps": 100}, {"name": "b"}))
    for _, _, folder in lab.results().runs():  # as if nothing had been done yet
        for path in folder.path.glob("*.a1.*"):
            path.unlink()
    plan = next(lab.results().jobs.iterdir()) / "plan.json"
    jobs = []
    for name in ("x", "y"):
        job = lab.results().job(name)
        job.path.mkdir()
        job.plan.write_text(plan.read_text().replace(plan.parent.name, name))
        code = f"from hpcbench.launch.job_execution import run_job; run_job({str(job.plan)!r})"
        environment = lab.environment | {
            "HPCBENCH_QUEUE_DIR": str(lab.folder / name)
        }  # no queue between them
        jobs.append(subprocess.Popen([*PYTHON, code], env=environment, stderr=subprocess.DEVNULL))
    assert [process.wait(timeout=30) for process in jobs] == [0, 0]
    assert Counter(lab.attempts()) == {"a/r0": 2, "b/r0": 2}


def test_the_machine_does_one_job_at_a_time(lab: Lab) -> None:
    """Runs of two sweeps, submitted together, never overlap in time."""
    sweeps = [lab.sweep({"name": "a"}, {"name": "b"}, name=name) for name in ("one", "two")]
    both = [lab.start("submit", sweep, "--results", "results", "--detach") for sweep in sweeps]
    for process in both:
        process.communicate(timeout=40)
    spans = []
    for sweep in ("one", "two"):
        lab.settled(sweep)
        times = [r.time_ns for name in ("a", "b") for r in records(lab, name, sweep=sweep)]
        spans.append((min(times), max(times)))
    assert spans[0][1] < spans[1][0] or spans[1][1] < spans[0][0]


def test_repeats_are_interleaved(lab: Lab) -> None:
    """The runs of a submission are done in the sweep's order: A B A B, never A A B B."""
    lab.submit(lab.sweep({"name": "a", "ranks": 1}, {"name": "b", "ranks": 1}, repeats=2))
    assert lab.attempts() == ["a/r0", "b/r0", "a/r1", "b/r1"]


def test_a_submission_is_decided_again_after_another_one(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two submissions that were decided at the same time, the second starts nothing that the first has."""
    for name in ("HPCBENCH_QUEUE_DIR", "HPCBENCH_EXECUTOR"):
        monkeypatch.setenv(name, lab.environment[name])
    request = SubmitRequest(files=(lab.sweep({"name": "a"}),), results=lab.folder / "results")
    first, second = load_submission(request, CATALOG), load_submission(request, CATALOG)
    assert first.to_do and second.to_do
    jobs = second.plan()
    assert len(submit_pending(first, first.plan())) == 1
    assert submit_pending(second, jobs) == []
    assert lab.settled()["a/r0"].state == "done" and lab.attempts() == ["a/r0"]
