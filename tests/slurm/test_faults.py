"""What goes wrong on a cluster, on a real one, and what hpcbench makes of it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from hpcbench.runs.claim import latest_claim, read_claim
from hpcbench.runs.events import Interrupted, Resumed, RunFailed
from hpcbench.runs.record_reader import read_events
from tests.cluster.helpers import eventually
from tests.slurm.helpers import PATIENCE_S, ClusterLab, long_run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(600)]
TWO_NODES = {"nodes": 2, "time": "00:05:00"}


def went_on(lab: ClusterLab, run: str = "long") -> None:
    """Check that a run is done, in several attempts, each epoch of which was trained once."""
    resumed = lab.events(run, Resumed)
    assert resumed and all(event.epoch > 0 for event in resumed)
    assert lab.status()[f"{run}/r0"]["attempt"] == len(resumed) + 1


def slurm_id(lab: ClusterLab) -> str:
    """Return the number of the only job in the queue."""
    (found,) = lab.slurm.jobs()
    return found


def test_requeue_by_hand_goes_on_from_the_checkpoint(lab: ClusterLab) -> None:
    """`scontrol requeue` ends a run's ranks in good order, and it goes on from its last epoch."""
    lab.queue(lab.sweep(long_run(epochs=6)))
    lab.training(epochs=2)
    lab.slurm.ask("scontrol", "requeue", slurm_id(lab))
    again = lab.until("long/r0", "pending")
    assert again["queued"] and "again" in again["reason"]
    lab.all_done()
    assert lab.events("long", Interrupted)
    went_on(lab)


def test_preemption_goes_on_when_the_nodes_are_free_again(lab: ClusterLab) -> None:
    """A job of a more urgent partition takes the nodes; the run saves, leaves, waits, and goes on."""
    lab.queue(lab.sweep(long_run(epochs=8, ranks=2, resources=TWO_NODES)))
    lab.training(epochs=2, rank=1)
    began = time.monotonic()
    lab.slurm.ask("sbatch", "-p", "urgent", "-N", "2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    eventually(lambda: lab.events("long", Interrupted, rank=1), within_s=PATIENCE_S)
    assert time.monotonic() - began < 30, "the ranks left before the grace time was over"
    lab.all_done()
    went_on(lab)


def test_time_limit_goes_on_in_the_next_allocation(lab: ClusterLab) -> None:
    """A run that is longer than an allocation may be takes several, up to max_requeues."""
    run = long_run(epochs=50)
    lab.queue(lab.sweep(run), time='"00:01:00"', signal_before_s=15, max_requeues=5)
    lab.all_done(within_s=400)
    went_on(lab)


def test_no_more_requeues_than_allowed(lab: ClusterLab) -> None:
    """With max_requeues 0 the notice ends the run for good, and status says what stopped it."""
    lab.queue(lab.sweep(long_run()), max_requeues=0)
    lab.training(epochs=1)
    lab.slurm.ask("scancel", "--signal=USR2", slurm_id(lab))
    found = lab.until("long/r0", "interrupted")
    assert "SIGUSR2" in found["reason"] and not found["queued"]
    eventually(lambda: not lab.slurm.jobs(), within_s=PATIENCE_S)


def test_scancel_is_not_requeued(lab: ClusterLab) -> None:
    """A cancelled job ends its ranks and stays cancelled: interrupted is what ran, cancelled what waited."""
    lab.queue(lab.sweep(long_run(), long_run("later")))
    eventually(lab.begun, within_s=PATIENCE_S)
    first = lab.begun()[0]
    lab.training(first.removesuffix("/r0"))
    assert lab.run("cancel", "results/sweep").returncode == 0
    assert "SIGTERM" in lab.until(first, "interrupted")["reason"]
    (waited,) = {"long/r0", "later/r0"} - {first}
    assert lab.status()[waited]["state"] == "cancelled"
    assert not lab.slurm.jobs()


def test_a_node_that_goes_down(lab: ClusterLab) -> None:
    """When a node is set down in mid-run, Slurm starts the job elsewhere, and the run goes on there."""
    lab.queue(lab.sweep(long_run(epochs=8)))
    lab.training(epochs=2)
    (node,) = lab.nodes_of("long")
    lab.slurm.ask("scontrol", "update", f"nodename={node}", "state=down", "reason=test")
    lab.all_done()
    went_on(lab)
    assert lab.nodes_of("long") != (node,)


def test_a_killed_rank_ends_the_run_on_all_nodes(lab: ClusterLab) -> None:
    """SIGKILL of a rank on the second node ends the others within 5 s; the run failed by that rank."""
    lab.queue(lab.sweep(long_run(ranks=4, resources=TWO_NODES), {"name": "next"}))
    lab.training(rank=3)
    victim = next(p for p in lab.ranks() if '"rank": 3,' in p.environ()["HPCBENCH_PLACEMENT"])
    began = time.monotonic()
    victim.send_signal(signal.SIGKILL)
    eventually(lambda: latest_claim(lab.results().run("long", 0)).ending, within_s=5)  # type: ignore[union-attr]
    assert time.monotonic() - began < 5
    lab.until("next/r0", "done")
    found = lab.status()["long/r0"]
    assert (found["state"], found["failed_rank"]) == ("failed", 3)
    assert found["reason"] == "rank 3: was killed by SIGKILL"


def test_a_rank_that_raises_is_the_cause_on_any_node(lab: ClusterLab) -> None:
    """The error of the rank that failed first is shown, with its last lines, wherever it was."""
    fault = {"strategy_options": {"step_s": 0.05, "fail_at_step": 3}}
    lab.queue(lab.sweep({"name": "bad", "ranks": 4, "resources": TWO_NODES, **fault}))
    found = lab.until("bad/r0", "failed")
    assert "PretendedFailureError: asked to fail at step 3" in found["reason"]
    assert "PretendedFailureError" in found["last_lines"][-1]


def test_a_killed_supervisor(lab: ClusterLab) -> None:
    """When the supervisor of the second node is killed, the run fails by its node's loss, everywhere."""
    lab.queue(lab.sweep(long_run(ranks=4, resources=TWO_NODES)), max_requeues=0)
    lab.training(rank=3)
    supervisor = next(p for p in lab.ranks() if '"rank": 3,' in p.environ()["HPCBENCH_PLACEMENT"]).parent()
    assert supervisor is not None
    supervisor.send_signal(signal.SIGKILL)
    found = lab.until("long/r0", "failed")
    assert "its node n2 has gone" in found["reason"]
    eventually(lambda: not lab.ranks(), within_s=10)


def test_a_killed_leader_leaves_the_run_lost(lab: ClusterLab) -> None:
    """When the first supervisor is killed, nothing survives, and the run is lost with Slurm's word on it."""
    lab.queue(lab.sweep(long_run(ranks=4, resources=TWO_NODES)))
    lab.training(rank=3)
    owner = latest_claim(lab.results().run("long", 0))
    assert owner is not None
    os.kill(owner.owner.pid, signal.SIGKILL)
    found = lab.until("long/r0", "lost")
    assert "Slurm job" in found["reason"] and "FAILED" in found["reason"]
    eventually(lambda: not lab.ranks(), within_s=10)


def test_the_controller_restarts_while_jobs_run(lab: ClusterLab) -> None:
    """Jobs go on without slurmctld, status says that Slurm does not answer, and all is well afterwards."""
    lab.queue(lab.sweep(long_run(epochs=8)))
    queued = time.time()
    lab.training(epochs=1)
    folder = Path(lab.slurm.variables["HPCBENCH_LAB"])
    # What it has not saved it would forget, the number of this job too, and give it to the next one.
    eventually(lambda: (folder / "state" / "job_state").stat().st_mtime > queued)
    os.kill(int((folder / "run" / "slurmctld.pid").read_text()), signal.SIGKILL)
    assert lab.status()["long/r0"]["state"] == "running"
    lab.slurm.script("up.sh")
    lab.all_done()
    assert lab.begun() == ["long/r0"]


def test_an_attempt_that_was_given_up_stops_itself(lab: ClusterLab) -> None:
    """A supervisor that Slurm believes dead and that lives on leaves as soon as there is a newer attempt."""
    lab.queue(lab.sweep(long_run(epochs=60)))
    lab.training(epochs=1)
    folder = lab.results().run("long", 0)
    first = read_claim(folder, 1)
    folder.claim(2).write_bytes(folder.claim(1).read_bytes().replace(b'"attempt": 1', b'"attempt": 2'))
    eventually(lambda: read_claim(folder, 1).ending, within_s=30)
    ending = read_claim(folder, first.attempt).ending
    assert ending is not None and "newer attempt" in ending.reason
    assert not [
        record
        for record in read_events(folder.supervisor_events(1, 0)).records
        if isinstance(record.event, RunFailed)
    ]
