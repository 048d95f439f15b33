"""What tests of jobs share: a small sweep file, the real command, and a look at the processes it leaves."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from hpcbench.launch.slurm.slurm_client import SlurmSnapshot
from hpcbench.runs import ledger
from hpcbench.runs.jobs import read_jobs
from hpcbench.runs.placement import PLACEMENT_VARIABLE
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.runs.run_status import RunStatus, read_status
from hpcbench.sweep.run_spec import Resources, RunSpec

HPCBENCH = (sys.executable, "-m", "hpcbench")


def noop(name: str = "run", *, ranks: int = 2, time_limit: str = "00:01:00", **options: Any) -> RunSpec:
    """Return a run that trains nothing, of 20 steps."""
    return RunSpec(
        name=name,
        strategy="noop",
        strategy_options={"step_s": 0.01, "fail_at_step": None, **options},
        ranks=ranks,
        data_shards=ranks,
        batch_size=8,
        steps=20,
        window_steps=2,
        resources=Resources(time=time_limit),
    )


def slow(spec: RunSpec) -> RunSpec:
    """Return the run with so many steps that it will not end by itself."""
    return replace(spec, steps=100_000)


@dataclass(frozen=True)
class Lab:
    """A folder of its own for a test: sweep files, results, and the machine's queue."""

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the commands: a queue that no other test waits in."""
        return os.environ | {
            "HPCBENCH_QUEUE_DIR": str(self.folder / "queue"),
            "HPCBENCH_EXECUTOR": "local",  # also where there is Slurm
            "COLUMNS": "200",
        }

    def sweep(self, *runs: dict[str, Any], name: str = "sweep", repeats: int = 1, **defaults: Any) -> Path:
        """Write a sweep of runs that train nothing."""
        usual = {
            "strategy": "noop", "ranks": 2, "batch_size": 8, "steps": 20, "window_steps": 2,
            "strategy_options": {"step_s": 0.01}, "repeats": repeats, "resources": {"time": "00:01:00"},
        }  # fmt: skip
        path = self.folder / f"{name}.yaml"
        content = {"version": 1, "name": name, "defaults": usual | defaults}
        # Two runs that differ in nothing but their names are one run, and refused.
        content["runs"] = [{"seed": 100 * number} | run for number, run in enumerate(runs)]
        path.write_text(yaml.safe_dump(content))
        return path

    def results(self, name: str = "sweep") -> ResultsFolder:
        """Return the results folder of a sweep."""
        return ResultsFolder(self.folder / "results" / name)

    def start(self, *arguments: object, **environment: str) -> subprocess.Popen[str]:
        """Start a command, with its output kept."""
        return subprocess.Popen(
            [*HPCBENCH, *map(str, arguments)],
            env=self.environment | environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        with self.start(*arguments, **environment) as process:
            out, err = process.communicate(timeout=60)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def submit(self, sweep: Path, *options: str, **environment: str) -> dict[str, RunStatus]:
        """Submit, and wait for the end without the report that the waiting command makes."""
        done = self.run("submit", sweep, "--results", "results", "--detach", *options, **environment)
        assert done.returncode == 0, done.stderr
        return self.settled(sweep.stem)

    def settled(self, name: str = "sweep") -> dict[str, RunStatus]:
        """Wait until nothing of a sweep is running or queued, and nothing of its job is left."""

        def over() -> bool:
            busy = any(run.queued or run.state == "running" for run in self.states(name).values())
            return not busy and not any(job.alive() for job in read_jobs(self.results(name), SlurmSnapshot))

        eventually(over, within_s=60)
        return self.states(name)

    def states(self, name: str = "sweep") -> dict[str, RunStatus]:
        """Return the status of every run of a sweep, by run and repeat."""
        return {run.key: run for run in read_status(self.results(name), SlurmSnapshot)}

    def steps_done(self, name: str = "sweep") -> bool:
        """Return whether a run of a sweep is running and has done steps."""
        return any(run.progress and run.progress.step for run in self.states(name).values())

    def attempts(self, name: str = "sweep") -> list[str]:
        """Return the runs that were begun, in order."""
        entries = (entry for _, entry in ledger.read_ledger(self.results(name).ledger))
        return [entry.run for entry in entries if isinstance(entry, ledger.AttemptClaimed)]

    def ranks(self) -> list[psutil.Process]:
        """Return the living ranks of this test, by the variable that their supervisor gave them."""
        return [
            p for p in self._processes() if str(self.folder) in _environment(p).get(PLACEMENT_VARIABLE, "")
        ]

    def leftovers(self) -> list[psutil.Process]:
        """Return every living process that a command of this test has started."""
        mine = {os.getpid()} | {parent.pid for parent in psutil.Process().parents()}
        return [
            process
            for process in self._processes()
            if process.pid not in mine
            and _environment(process).get("HPCBENCH_QUEUE_DIR") == str(self.folder / "queue")
        ]

    def _processes(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process
            except psutil.NoSuchProcess:
                continue


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return {}


def eventually(condition: Callable[[], Any], *, within_s: float = 20.0) -> Any:
    """Wait until something is so, and return it."""
    deadline = time.monotonic() + within_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {within_s} s"
        time.sleep(0.05)
    return found


def injected(folder: Path, code: str) -> dict[str, str]:
    """Return an environment in which each rank runs `code` when its Python starts; it knows its `rank`."""
    folder.mkdir(exist_ok=True)
    prelude = (
        "import json, os\n"
        f"place = os.environ.get({PLACEMENT_VARIABLE!r})\n"
        "rank = json.loads(place)['rank'] if place else None\n"
    )
    (folder / "sitecustomize.py").write_text(prelude + code)
    return {"PYTHONPATH": str(folder)}
