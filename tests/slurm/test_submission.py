"""Into the queue and out of it: what is submitted, how often, how fast, and what is refused."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hpcbench.ceilings.ceiling_records import ComputeCeiling, InputCeiling, LinkCeiling, read_ceilings
from hpcbench.runs import ledger
from hpcbench.runs.events import Check
from tests.cluster.helpers import eventually
from tests.slurm.helpers import ClusterLab, long_run

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]
SHORT = {"ranks": 1, "steps": 2, "strategy_options": {"step_s": 0.0}}


def many(lab: ClusterLab, count: int) -> object:
    """Write a sweep of so many short runs."""
    return lab.sweep({"grid": {"seed": list(range(count))}, **SHORT})


def test_two_nodes_learn_what_one_learns(lab: ClusterLab) -> None:
    """The same run on one node and on two reaches the same weights, bit for bit."""
    common: dict[str, Any] = {
        "dataset": "digits", "model": "smallconv", "ranks": 4,
        "batch_size": 16, "steps": 40, "window_steps": 10, "probe": False,
    }  # fmt: skip
    one = common | {"name": "one", "resources": {"nodes": 1, "time": "00:05:00"}}
    two = common | {"name": "two", "resources": {"nodes": 2, "time": "00:05:00"}}
    lab.queue(lab.sweep(one | {"seed": 7}, two | {"seed": 7}, strategy="ddp", strategy_options={}))
    lab.all_done(within_s=400)
    assert lab.nodes_of("two") == ("n1", "n2")
    ends = {
        (run, rank): (checks[0].weights_checksum, checks[-1].weights_checksum)
        for run in ("one", "two")
        for rank in range(4)
        for checks in [lab.events(run, Check, rank=rank)]
    }
    assert len(set(ends.values())) == 1 and ends["one", 0][0] != ends["one", 0][1]


def test_each_node_has_its_ceilings(lab: ClusterLab) -> None:
    """A job on two nodes measures the model and the loader on each, and the link between them, once."""
    real: dict[str, Any] = {
        "dataset": "digits", "model": "smallconv", "ranks": 4, "batch_size": 16, "steps": 20,
        "resources": {"nodes": 2, "time": "00:10:00"}, "strategy": "ddp", "strategy_options": {},
    }  # fmt: skip
    lab.queue(lab.sweep({"name": "run"}, repeats=2, **real))
    lab.all_done(within_s=400)
    found = {path.stem: read_ceilings(path).records for path in lab.results().ceiling_files()}
    assert found.keys() == {"n1", "n2"}
    kinds = {host: Counter(type(each.ceiling) for each in records) for host, records in found.items()}
    for host in found:
        assert (kinds[host][ComputeCeiling], kinds[host][InputCeiling]) == (2, 1), host
    links = [each.ceiling for each in found["n1"] if isinstance(each.ceiling, LinkCeiling)]
    assert [(link.ranks, link.nodes) for link in links] == [(4, 2)] * 3
    assert not kinds["n2"][LinkCeiling]


def test_an_array_of_two_hundred(lab: ClusterLab) -> None:
    """Two hundred runs as one array, four at a time: each is begun once and done."""
    (job,) = lab.queue(many(lab, 200), "--pack", "false", "--max-parallel", "4", exclusive="false")
    assert "%4" in (lab.results().job(job).script).read_text()
    lab.all_done(within_s=800)
    assert set(Counter(lab.begun()).values()) == {1} and len(lab.begun()) == 200


def test_more_runs_than_an_array_holds(lab: ClusterLab) -> None:
    """1,200 runs against MaxArraySize 1001 become two arrays in seconds, which do their runs."""
    sweep = many(lab, 1200)
    began = time.monotonic()
    jobs = lab.queue(sweep, "--pack", "false", exclusive="false")
    took_s = time.monotonic() - began
    assert took_s < 10 * slowness(), f"{took_s:.1f} s"
    assert len(jobs) == 2
    scripts = [lab.results().job(job).script.read_text() for job in jobs]
    assert ["--array=0-1000%" in scripts[0], "--array=0-198%" in scripts[1]] == [True, True]
    if os.environ.get("HPCBENCH_TEST_LONG"):
        lab.all_done(within_s=3600)
        assert set(Counter(lab.begun()).values()) == {1} and len(lab.begun()) == 1200
        return
    eventually(lambda: sum(run["state"] == "done" for run in lab.status().values()) >= 10, within_s=120)
    began = time.monotonic()
    lab.status()
    assert time.monotonic() - began < 2 * slowness()
    assert lab.run("cancel", "results/sweep").returncode == 0


def slowness() -> float:
    """Return by how much to stretch an absolute limit: as much as a busy machine is slower."""
    return max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def test_packed_runs_share_nodes_and_a_failed_one_ends_no_other(lab: ClusterLab) -> None:
    """By default all runs of a class are one job, repeats one after the other, in an order with a seed."""
    bad = {"name": "bad", "strategy_options": {"step_s": 0.0, "fail_at_step": 1}}
    runs = [bad, *({"name": f"run{number}"} for number in range(3))]
    (job,) = lab.queue(lab.sweep(*runs, repeats=2, **SHORT))
    eventually(lambda: len(lab.begun()) == 8 and not lab.slurm.jobs(), within_s=120)
    first, second = lab.begun()[:4], lab.begun()[4:]
    assert {each[-1] for each in first} == {"0"} and {each[-1] for each in second} == {"1"}
    states = lab.status()
    assert {key for key, run in states.items() if run["state"] != "done"} == {"bad/r0", "bad/r1"}
    assert {run["job_id"] for run in states.values()} == {job}


def test_a_submitter_that_is_killed_half_way(lab: ClusterLab) -> None:
    """Killed at any moment and run again, a submission puts every run into the queue exactly once."""
    sweep = lab.sweep(*({"name": f"run{number}"} for number in range(6)), **SHORT)
    for wait_s in (0.4, 0.7, 0.9, 1.1, 1.4):
        options = ("--results", "results", "--pack", "6", "--profile", lab.profile())
        process = lab.start("submit", sweep, *options)
        time.sleep(wait_s * slowness())
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert lab.run("submit", sweep, *options).returncode == 0
    lab.all_done()
    eventually(lambda: not lab.slurm.jobs(), within_s=60)
    assert set(Counter(lab.begun()).values()) == {1} and len(lab.begun()) == 6
    entries = [entry for _, entry in ledger.read_ledger(lab.results().ledger)]
    named = {entry.name for entry in entries if isinstance(entry, ledger.JobSubmitted)}
    assert lab.slurm.ask("sacct", "-X", "-n", "-P", "-o", "JobName").split()
    known = set(lab.slurm.ask("squeue", "-h", "-t", "all", "-o", "%j").split()) & named
    assert len(known) == 6


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ({"partition": "nope"}, "invalid partition"),
        ({"constraint": "a100"}, "feature"),
        ({"cpus_per_node": 1}, "needs 2 CPUs"),
        ({"extra": "[--gpus-per-node=9]"}, "configuration"),
        ({"exclude": "n9"}, "node"),
    ],
)
def test_what_slurm_would_never_start_is_refused(
    lab: ClusterLab, profile: dict[str, object], said: str
) -> None:
    """An unknown partition or constraint, or more than a node has: one message, nothing left behind."""
    sweep = lab.sweep({"name": "run"})
    done = lab.run("submit", sweep, "--results", "results", "--profile", lab.profile(**profile))
    assert done.returncode == 2 and said.lower() in done.stderr.lower(), done.stderr
    assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) <= 2
    assert not lab.slurm.jobs() and not lab.results().path.exists()


def test_a_job_that_waits_says_for_what(lab: ClusterLab) -> None:
    """A run whose nodes are all down is pending, with Slurm's reason, and starts when one is back."""
    lab.slurm.ask("scontrol", "update", "nodename=n[1-2]", "state=drain", "reason=test")
    lab.queue(lab.sweep({"name": "run"}))
    eventually(lambda: "ReqNodeNotAvail" in (why := lab.status()["run/r0"]["reason"]) or "Nodes" in why)
    lab.slurm.ask("scontrol", "update", "nodename=n[1-2]", "state=resume")
    lab.all_done()


def test_defaults_of_the_caller_do_not_leak(lab: ClusterLab) -> None:
    """SBATCH_ variables of the caller's shell change nothing."""
    sweep, profile = lab.sweep({"name": "run"}), lab.profile()
    done = lab.run("submit", sweep, "--results", "results", "--profile", profile, SBATCH_PARTITION="nope")
    assert done.returncode == 0, done.stderr
    lab.all_done()


def test_setup_and_variables_reach_the_ranks(lab: ClusterLab) -> None:
    """Shell lines of `setup` run before the job, and `env` is set for its ranks."""
    mark = lab.folder / "mark"
    lab.queue(
        lab.sweep({"name": "run", "ranks": 1}),
        setup=f"['echo \"$NCCL_P2P_DISABLE\" > {mark}']",
        env="{NCCL_P2P_DISABLE: 1}",
    )
    lab.all_done()
    assert mark.read_text() == "1\n"


def test_the_last_job_collects(lab: ClusterLab) -> None:
    """With --collect, a job that depends on the others writes the report when they are over."""
    lab.queue(lab.sweep({"name": "run"}), "--collect")
    eventually(lambda: (lab.results().report / "ranking.csv").exists(), within_s=180)


def test_waiting_ends_with_the_ranking(lab: ClusterLab) -> None:
    """--wait stays until the runs are over and prints the ranked table."""
    sweep = lab.sweep({"name": "run"})
    done = lab.run("submit", sweep, "--results", "results", "--profile", lab.profile(), "--wait")
    assert done.returncode == 0 and "run" in done.stdout, done.stderr


def test_retry_stays_away_from_nodes_on_which_runs_died(lab: ClusterLab) -> None:
    """--exclude-failed-nodes names them, and the run goes elsewhere."""
    lab.queue(lab.sweep(long_run(epochs=60)), max_requeues=0)
    lab.training()
    (node,) = lab.nodes_of("long")
    lab.ranks()[0].send_signal(signal.SIGKILL)
    lab.until("long/r0", "failed")
    done = lab.run("retry", "results/sweep", "--exclude-failed-nodes")
    assert done.returncode == 0 and f"not on {node}" in done.stderr, done.stderr
    lab.training(attempt=2)
    assert lab.nodes_of("long") != (node,)


def test_retry_with_more_time(lab: ClusterLab) -> None:
    """A run that has reached its time limit gets a longer one, and only such a run."""
    lab.queue(lab.sweep(long_run(epochs=6, resources={"time": "00:00:03"})))
    assert "time limit of 00:00:03 reached" in lab.until("long/r0", "failed")["reason"]
    done = lab.run("retry", "results/sweep", "--more", "20")
    assert done.returncode == 0 and "time limit 00:01:00" in done.stderr, done.stderr
    lab.all_done()


def test_inside_an_allocation_runs_go_there(lab: ClusterLab) -> None:
    """A submission inside a job of Slurm runs on that job's node and queues nothing."""
    sweep = lab.sweep({"name": "run"})
    out = lab.folder / "out"
    command = f"cd {lab.folder} && hpcbench submit {sweep} --results results --wait"
    path = f"PATH={Path(sys.executable).parent}:$PATH"
    lab.slurm.ask("sbatch", "--wait", "-o", str(out), "--wrap", f"export {path}; {command}")
    assert lab.status()["run/r0"]["state"] == "done", out.read_text()
    executors = [
        e.executor for _, e in ledger.read_ledger(lab.results().ledger) if isinstance(e, ledger.JobSubmitted)
    ]
    assert executors == ["local"]


def test_several_nodes_of_an_allocation(lab: ClusterLab) -> None:
    """The template for several nodes does runs of one and of two nodes in its allocation."""
    sweep = lab.sweep({"name": "one"}, {"name": "two", "ranks": 4, "resources": {"nodes": 2}})
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = Path(__file__).parents[2] / "slurm" / "several_nodes.sbatch"
    ours = ("--time=5", "--gpus-per-node=0", "--cpus-per-task=2", f"--chdir={lab.folder}", "--wait")
    lab.slurm.ask("env", f"PATH={path}", "sbatch", *ours, str(script), str(sweep), "--results", "results")
    states = lab.status()
    assert {run["state"] for run in states.values()} == {"done"}, states
    assert lab.nodes_of("two") == ("n1", "n2")
    assert lab.slurm.ask("squeue", "-h", "-t", "all", "-o", "%j").split().count("hpcbench") >= 1


def test_a_results_folder_that_nodes_do_not_see(lab: ClusterLab) -> None:
    """The job's first act is to look: its message names both machines and what to do."""
    plan = lab.folder / "nowhere" / "plan.json"
    out = lab.folder / "out"
    command = f"srun {sys.executable} -m hpcbench.launch.slurm.slurm_node {plan}"
    lab.slurm.ask("sh", "-c", f"sbatch --wait -o {out} --wrap '{command}' || true")
    said = out.read_text()
    assert "node n1 does not see it" in said and "was written on" in said and "--results DIR" in said
    assert "Traceback" not in said


def test_a_drafted_profile_works(lab: ClusterLab) -> None:
    """`doctor --write-profile` makes a profile of what Slurm says, with which a sweep can be submitted."""
    path = lab.folder / "drafted.yaml"
    assert lab.run("doctor", "--write-profile", path).returncode == 0
    text = path.read_text()
    assert "partition: main\n" in text and "gpus_per_node: 4\n" in text and "others are urgent" in text
    done = lab.run("submit", lab.sweep({"name": "run"}), "--results", "results", "--profile", path)
    assert done.returncode == 0, done.stderr
    lab.all_done()
    assert lab.run("doctor", "--write-profile", path).returncode == 2, "nothing is overwritten"


def test_one_question_for_a_whole_sweep(lab: ClusterLab) -> None:
    """`status` asks Slurm once, and not at all when everything is done."""
    tools = lab.folder / "tools"
    tools.mkdir()
    for name in ("squeue", "sacct"):
        real = lab.slurm.ask("which", name).strip()
        (tools / name).write_text(f'#!/bin/sh\necho {name} >> {lab.folder}/asked\nexec {real} "$@"\n')
        (tools / name).chmod(0o755)
    path = f"{tools}:{os.environ['PATH']}"
    lab.queue(lab.sweep(*(long_run(f"long{number}") for number in range(3))), "--pack", "3")
    lab.run("status", "results/sweep", PATH=path)
    assert (lab.folder / "asked").read_text().split() == ["squeue"]
    lab.run("cancel", "results/sweep")
