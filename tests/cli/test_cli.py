from __future__ import annotations

import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hpcbench
from tests.cluster.helpers import HPCBENCH, Lab, eventually, injected

WITHOUT_TORCH = """
import sys
from hpcbench.cli import main
try:
    status = main(sys.argv[1:])
except SystemExit as left:
    status = left.code
heavy = [name for name in ("torch", "torchvision", "pandas", "matplotlib", "sklearn") if name in sys.modules]
sys.exit(f"imported {heavy}" if heavy else status)
"""


def children_s() -> float:
    """Return the processor time of ended children: what a command costs, however busy the machine is."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def fastest_s(lab: Lab, *arguments: object, times: int = 3) -> float:
    """Return the least work a command took, which must not import torch, pandas or matplotlib."""
    took = []
    for _ in range(times):
        began = children_s()
        done = subprocess.run(
            [sys.executable, "-c", WITHOUT_TORCH, *map(str, arguments)],
            env=lab.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        took.append(children_s() - began)
        assert done.returncode == 0, done.stderr
    return min(took)


def test_help_is_quick(lab: Lab) -> None:
    """`--help` answers in under half a second and imports nothing heavy."""
    assert fastest_s(lab, "--help") < 0.5


def test_dry_run_of_a_thousand_runs_is_quick(lab: Lab) -> None:
    """A thousand runs are expanded, checked and listed in under two seconds, and nothing is written."""
    axes = {"seed": list(range(0, 5000, 10)), "batch_size": [8, 16]}
    sweep = lab.sweep({"grid": axes})
    assert fastest_s(lab, "submit", sweep, "--dry-run", "--json", times=2) < 2
    assert not (lab.folder / "results").exists()


def test_status_of_fifty_runs_is_quick(lab: Lab) -> None:
    """The status of fifty runs that were done takes less than a second."""
    results = lab.results()
    lab.submit(lab.sweep({"name": "real", "steps": 100, "ranks": 4}, {"name": "bad", "ranks": 1}))
    (_, _, real) = next(run for run in results.runs() if run[0] == "real")
    for number in range(49):
        copy = results.run(f"copy{number}", 0).path
        copy.mkdir(parents=True)
        for path in real.path.glob("*.json*"):
            (copy / path.name).write_bytes(path.read_bytes())
    assert fastest_s(lab, "status", results.path) < 1
    told = json.loads(lab.run("status", results.path, "--json").stdout)
    assert told["counts"]["done"] == len(told["runs"]) == 51


def test_version_and_no_verb(lab: Lab) -> None:
    """`--version` names the version; without a verb, or with a wrong one, the usage and status 2."""
    assert lab.run("--version").stdout == f"hpcbench {hpcbench.__version__}\n"
    assert lab.run().returncode == 2
    wrong = lab.run("sumbit")
    assert wrong.returncode == 2 and "submit" in wrong.stderr


@pytest.mark.parametrize("door", ["submit", "run", "collect", "status"])
def test_doors(lab: Lab, door: str) -> None:
    """`python -m hpcbench.COMMAND` is `hpcbench COMMAND`."""
    done = subprocess.run(
        [sys.executable, "-m", f"hpcbench.{door}", "--help"],
        env=lab.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == lab.run(door, "--help").stdout


@pytest.mark.parametrize("verb", ["status", "cancel", "retry", "clean"])
def test_a_folder_without_results(lab: Lab, verb: str) -> None:
    """A verb for results says what is wrong with a folder that holds none, and where they may be."""
    assert "no such results folder" in lab.run(verb, lab.folder / "nowhere").stderr
    (lab.folder / "results/sweep").mkdir(parents=True)
    (lab.folder / "results/sweep/ledger.jsonl").touch()
    done = lab.run(verb, "results")
    assert done.returncode == 2
    assert "no results folder" in done.stderr and "results/sweep?" in done.stderr


def test_a_reader_that_leaves_early(lab: Lab) -> None:
    """Nobody complains when the output of a long table is cut off by `head`."""
    sweep = lab.sweep({"grid": {"seed": list(range(0, 20_000, 10))}})
    command = f"{' '.join(HPCBENCH)} submit {sweep} --dry-run | head -1"
    done = subprocess.run(
        command, shell=True, env=lab.environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.count("\n") == 1 and done.stderr == ""


def test_dry_run_lists_what_cannot_run_and_submit_refuses_it(lab: Lab) -> None:
    """Runs that can't go here are skipped with the reason; a real submit of them exits 2, nothing written."""
    impossible = {"name": "big", "resources": {"nodes": 3, "gpus_per_node": 0}, "ranks": 2}
    sweep = lab.sweep({"name": "fine"}, impossible)
    listed = lab.run("submit", sweep, "--dry-run", "--json")
    assert listed.returncode == 0, listed.stderr
    fine, big = json.loads(listed.stdout)
    assert set(fine) >= {"name", "run_id", "strategy", "ranks", "resources", "action", "reason"}
    assert (fine["name"], fine["action"], big["action"]) == ("fine", "run", "skipped")
    assert "3 nodes" in big["reason"]
    table = lab.run("submit", sweep, "--dry-run")
    assert "skipped" in table.stdout and "3 nodes" in table.stdout
    real = lab.run("submit", sweep, "--results", "results")
    assert real.returncode == 2 and "3 nodes" in real.stderr and "big" in real.stderr
    assert not (lab.folder / "results").exists()
    assert lab.run("submit", sweep, "--results", "results", "--only", "fine", "--dry-run").returncode == 0


def test_wrong_input_is_one_message_and_nothing_happens(lab: Lab) -> None:
    """A sweep with an unknown key: one line on stderr with file and line, status 2, no traceback, no file."""
    sweep = lab.sweep({"name": "a", "batchsize": 3})
    done = lab.run("submit", sweep, "--results", "results")
    assert done.returncode == 2 and done.stdout == ""
    assert "sweep.yaml:" in done.stderr and "batch_size" in done.stderr
    assert "Traceback" not in done.stderr and done.stderr.count("\n") == 1
    assert not (lab.folder / "results").exists()
    assert lab.run("submit", sweep, "--executor", "slurm").returncode == 2


def test_results_that_can_not_be_written(lab: Lab) -> None:
    """A results folder that is a file is one message, status 2."""
    (lab.folder / "results").write_text("no folder")
    done = lab.run("submit", lab.sweep({"name": "a"}), "--results", "results")
    assert done.returncode == 2 and "Traceback" not in done.stderr


def test_a_finished_sweep_again(lab: Lab) -> None:
    """Submitted again, a finished sweep starts nothing, and its ranking is there within three seconds."""
    sweep = lab.sweep({"name": "a"}, {"name": "b", "ranks": 1})
    first = lab.run("submit", sweep, "--results", "results")
    assert first.returncode == 0, first.stderr
    ledger = lab.results().ledger.read_bytes()
    took = []
    for _ in range(3):
        began = children_s()
        again = lab.run("submit", sweep, "--results", "results")
        took.append(children_s() - began)
    assert min(took) < 3
    assert again.returncode == 0 and again.stdout == first.stdout != ""
    assert lab.results().ledger.read_bytes() == ledger
    listed = json.loads(lab.run("submit", sweep, "--results", "results", "--dry-run", "--json").stdout)
    assert {(run["action"], run["reason"]) for run in listed} == {("skipped", "done")}


def test_another_run_of_the_same_name(lab: Lab) -> None:
    """Other content under a known name is refused with the difference; --force sets the old one aside."""
    lab.submit(lab.sweep({"name": "a"}, {"name": "b"}))
    old_id = lab.states()["a/r0"].run_id
    changed = lab.sweep({"name": "a", "batch_size": 16}, {"name": "b"})
    refused = lab.run("submit", changed, "--results", "results")
    assert refused.returncode == 2 and "batch_size: 8 there, 16 here" in refused.stderr
    assert lab.states()["a/r0"].run_id == old_id
    states = lab.submit(changed, "--force")
    assert states["a/r0"].state == "done" and states["a/r0"].run_id != old_id
    assert lab.attempts() == ["a/r0", "b/r0", "a/r0"]
    assert (lab.results().replaced("a", 0, old_id) / "events.a1.rank0.jsonl").exists()


def test_clean_keeps_records(lab: Lab) -> None:
    """`clean` removes logs of superseded attempts and what jobs leave, and not one record."""
    fault = injected(lab.folder / "fault", "if rank == 1: os._exit(7)\n")
    lab.submit(lab.sweep({"name": "a"}), **fault)
    assert lab.run("retry", lab.results().path, "--detach").returncode == 0
    before = lab.settled()
    records = sorted(lab.results().path.rglob("*.jsonl"))
    folder = lab.results().run("a", 0)
    assert folder.log(1, 0).exists() and any(lab.results().jobs.iterdir())
    assert lab.run("clean", lab.results().path).returncode == 0
    assert not folder.log(1, 0).exists() and folder.log(2, 0).exists()
    assert not any(lab.results().jobs.iterdir())
    assert sorted(lab.results().path.rglob("*.jsonl")) == records
    assert lab.states() == before


def test_run_here(lab: Lab) -> None:
    """`run` does one run in the folder of one's choice, says so, and does not do it twice."""
    options = ["--strategy", "noop", "--ranks", "2", "--set", "steps=5", "--set", "batch_size=8"]
    done = lab.run("run", *options, "--out", "out")
    assert done.returncode == 0, done.stderr
    assert "done in" in done.stdout
    assert sorted(path.name for path in (lab.folder / "out").glob("events*")) == [
        "events.a1.rank0.jsonl",
        "events.a1.rank1.jsonl",
    ]
    assert "done already" in lab.run("run", *options, "--out", "out").stdout
    other = lab.run("run", *options, "--set", "steps=6", "--out", "out")
    assert other.returncode == 2 and "another run" in other.stderr
    failing = lab.run("run", *options, "--set", "strategy_options.fail_at_step=1", "--out", "bad")
    assert failing.returncode == 1 and "asked to fail at step 1" in failing.stderr
    again = lab.run("run", "out/spec.json", "--out", "copy")
    assert again.returncode == 0, again.stderr


@pytest.mark.skipif(shutil.which("c++") is None, reason="torch.compile needs a C++ compiler on a CPU")
def test_a_compiled_run_learns_the_same(lab: Lab) -> None:
    """`compile: true` changes how fast, not what: the same weights after ten steps in double precision."""
    fields = ["steps=10", "precision=fp64", "save_weights=true", "evaluate=false"]
    weights = {}
    for compiled in ("false", "true"):
        said = [part for field in (*fields, f"compile={compiled}") for part in ("--set", field)]
        done = lab.run("run", "--strategy", "ddp", "--ranks", "2", *said, "--out", compiled)
        assert done.returncode == 0, done.stderr
        weights[compiled] = torch.load(lab.folder / compiled / "weights.pt", weights_only=True)
    assert weights["true"].keys() == weights["false"].keys()
    for name, value in weights["false"].items():
        torch.testing.assert_close(weights["true"][name], value, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_run_as_ranks_of_a_launcher(lab: Lab, launcher: str) -> None:
    """Under torchrun, and in a step of srun of its size, each process becomes the rank it is told to be."""
    options = ["--strategy", "noop", "--ranks", "2", "--set", "steps=5", "--set", "batch_size=8"]
    processes = []
    for rank in (1, 0):
        told = {
            "torchrun": {
                "RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29400",
            },
            "srun": {
                "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_PROCID": str(rank), "SLURM_NTASKS": "2",
                "SLURM_LOCALID": str(rank), "SLURM_NODEID": "0", "SLURM_STEP_NUM_NODES": "1",
            },
        }[launcher]  # fmt: skip
        processes.append(lab.start("run", *options, "--out", "out", **told))
    ended = [process.communicate(timeout=30) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert len(list((lab.folder / "out").glob("events.a1.rank?.jsonl"))) == 2
    assert "done already" in lab.run("run", *options, "--out", "out").stdout


def test_a_step_of_another_size_is_not_about_the_run(lab: Lab) -> None:
    """Inside a step of one task, `run` starts its two ranks itself."""
    step = {
        "SLURM_JOB_ID": "5", "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1",
        "SLURM_LOCALID": "0", "SLURM_NODEID": "0",
    }  # fmt: skip
    options = ["--strategy", "noop", "--ranks", "2", "--set", "steps=5", "--set", "batch_size=8"]
    assert lab.run("run", *options, "--out", "out", **step).returncode == 0
    assert len(list((lab.folder / "out").glob("events.a1.rank?.jsonl"))) == 2


def test_gpu_hours_are_limited(lab: Lab) -> None:
    """What the limits allow is said beforehand; on CPUs it is no GPU-hours, and passes any limit."""
    done = lab.run(
        "submit", lab.sweep({"name": "a"}), "--results", "results", "--detach", "--max-gpu-hours", "0"
    )
    assert done.returncode == 0 and "at most 60 s by limits" in done.stderr
    assert re.search(r"at most about \d+(\.\d+)? KB in \d+ files", done.stderr), done.stderr
    lab.settled()


def test_watch_ends_when_nothing_runs(lab: Lab) -> None:
    """`status --watch` stays while a job lives, then shows the end."""
    lab.run("submit", lab.sweep({"name": "a", "steps": 150}), "--results", "results", "--detach")
    eventually(lab.steps_done)
    watched = lab.run("status", lab.results().path, "--watch")
    assert watched.returncode == 0 and "1 done" in watched.stdout


def test_resolved_sweep_and_specs_are_written(lab: Lab) -> None:
    """A submission leaves the sweep as resolved, and each run's specification with its id."""
    lab.submit(lab.sweep({"name": "a"}))
    folder = lab.results().run("a", 0)
    stored = json.loads(folder.spec.read_text())
    assert stored["run_id"] == lab.states()["a/r0"].run_id
    assert stored["spec"]["name"] == "a" and stored["declared"] is None
    listed = lab.run("submit", lab.results().sweep, "--results", "elsewhere", "--dry-run", "--json")
    assert [run["run_id"] for run in json.loads(listed.stdout)] == [stored["run_id"]]


def test_a_smoke_run_keeps_what_was_declared(lab: Lab, tmp_path: Path) -> None:
    """With --smoke the scaled-down run is done, and the declared one stands beside it."""
    lab.submit(lab.sweep({"name": "a", "batch_size": 64}, repeats=3), "--smoke")
    stored = json.loads(lab.results().run("a", 0).spec.read_text())
    assert (stored["declared"]["batch_size"], stored["spec"]["batch_size"]) == (64, 2)
    assert stored["spec"]["smoke"] and list(lab.states()) == ["a/r0"]


def test_quiet_and_verbose(lab: Lab) -> None:
    """`-q` leaves warnings, errors and what was asked for; a script sees nothing else on standard error."""
    sweep = lab.sweep({"name": "a"})
    done = lab.run("submit", sweep, "--results", "results", "--detach", "-q")
    assert done.stdout.startswith("job ") and done.stderr == ""
    lab.settled()
    usual = lab.run("submit", sweep, "--results", "results", "--detach")
    assert usual.stderr.splitlines() == ["hpcbench: 1 runs: 1 done already", "hpcbench: nothing to do"]
    wrong = lab.run("status", "-q", "results")
    assert wrong.returncode == 2 and wrong.stderr.startswith("hpcbench: results: this is no results folder")
    assert lab.run("status", "-q", "-v", "results").returncode == 2
