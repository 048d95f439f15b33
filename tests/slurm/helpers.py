"""What tests on a real Slurm share: the lab, commands in it, and a look at what a sweep left there."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hpcbench.runs import ledger
from hpcbench.runs.claim import latest_claim
from hpcbench.runs.events import Event
from hpcbench.runs.record_reader import read_events
from hpcbench.runs.results_folder import read_spec_json
from tests.cluster.helpers import Lab, eventually

LAB_SCRIPTS = Path(__file__).parents[2] / "slurm" / "lab"
# Of the two cores that a developer has, others want their share: these are no measurements.
PATIENCE_S = 120.0


@dataclass(frozen=True)
class Slurm:
    """A running lab; `variables` are those that make commands find it."""

    variables: dict[str, str]

    def ask(self, *command: str) -> str:
        """Return what a command of Slurm prints."""
        done = subprocess.run(
            command, env=os.environ | self.variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, (command, done.stderr)
        return done.stdout

    def script(self, *command: str) -> None:
        """Start what is missing of the lab (up.sh), or end it (down.sh).

        Whoever interrupts the tests does not interrupt that: it would leave half a cluster.
        """
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(
                ["bash", str(LAB_SCRIPTS / command[0]), *command[1:]],
                env=os.environ | self.variables,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            status = process.wait(timeout=400)
            output.seek(0)
            if status == os.EX_TEMPFAIL:
                pytest.skip(f"NOT TESTED: Slurm can't be had on this machine: {output.read()[-600:]}")
            assert status == 0, output.read()

    def jobs(self) -> list[str]:
        """List the jobs in the queue."""
        return self.ask("squeue", "--noheader", "--format=%i").split()


@dataclass(frozen=True)
class ClusterLab(Lab):
    """A folder for sweeps and results whose commands find a lab."""

    slurm: Slurm

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the commands."""
        return super().environment | self.slurm.variables | {"HPCBENCH_EXECUTOR": "auto"}

    def profile(self, **values: Any) -> Path:
        """Write a profile."""
        path = self.folder / "site.yaml"
        said = {"partition": "main", **values}
        path.write_text("\n".join(f"{key}: {value}" for key, value in said.items()))
        return path

    def queue(self, sweep: Path, *options: object, **profile: Any) -> list[str]:
        """Submit a sweep and leave; returns the ids of its jobs."""
        done = self.run(
            "submit", sweep, "--results", "results", "--profile", self.profile(**profile), *options
        )
        assert done.returncode == 0, done.stderr
        return [line.removeprefix("job ") for line in done.stdout.splitlines() if line.startswith("job ")]

    def status(self, name: str = "sweep") -> dict[str, dict[str, Any]]:
        """Return what `hpcbench status` says of each run."""
        done = self.run("status", f"results/{name}", "--json")
        assert done.returncode in (0, 1), done.stderr
        return {f"{run['name']}/r{run['repeat']}": run for run in json.loads(done.stdout)["runs"]}

    def until(
        self, run: str, state: str, *, name: str = "sweep", within_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Wait until a run is in a state, and return what is said of it."""
        deadline = time.monotonic() + within_s
        while (found := self.status(name)[run])["state"] != state:
            assert time.monotonic() < deadline, f"not {state} after {within_s} s: {found}"
            time.sleep(0.5)
        return found

    def all_done(self, name: str = "sweep", within_s: float = PATIENCE_S) -> None:
        """Wait until all runs of a sweep are done."""
        deadline = time.monotonic() + within_s
        while waiting := [run for run in self.status(name).values() if run["state"] != "done"]:
            assert time.monotonic() < deadline, waiting[:3]
            time.sleep(1)

    def training(self, run: str = "long", *, attempt: int = 1, rank: int = 0, epochs: int = 0) -> None:
        """Wait until a rank of a run has done steps, and so many epochs."""
        path = self.results().run(run, 0).events(attempt, rank)
        wanted = b'"event":"epoch"' if epochs else b'"event":"steps"'
        eventually(
            lambda: path.exists() and path.read_bytes().count(wanted) >= max(1, epochs), within_s=PATIENCE_S
        )

    def events(self, run: str, kind: type[Event], *, rank: int = 0, sweep: str = "sweep") -> list[Any]:
        """Return the events of a kind that a rank has recorded, over all attempts."""
        folder = self.results(sweep).run(run, 0)
        files = [folder.events(attempt, rank) for attempt in folder.attempts()]
        records = [record for path in files if path.exists() for record in read_events(path).records]
        return [record.event for record in records if isinstance(record.event, kind)]

    def begun(self, name: str = "sweep") -> list[str]:
        """Return the runs that were begun, in order."""
        entries = (entry for _, entry in ledger.read_ledger(self.results(name).ledger))
        return [entry.run for entry in entries if isinstance(entry, ledger.AttemptClaimed)]

    def nodes_of(self, run: str, name: str = "sweep") -> tuple[str, ...]:
        """Return the nodes of a run's newest attempt."""
        claim = latest_claim(self.results(name).run(run, 0))
        assert claim is not None
        return claim.nodes

    def run_id(self, run: str, name: str = "sweep") -> str:
        """Return a run's id."""
        return str(read_spec_json(self.results(name).run(run, 0))["run_id"])


def long_run(name: str = "long", *, epochs: int = 40, **more: Any) -> dict[str, Any]:
    """Return a run that trains nothing for about a second an epoch, and keeps each epoch."""
    return {
        "name": name,
        "ranks": 1,
        "dataset": "synthetic",
        "dataset_options": {"samples": 80},
        "model": "resnet18",
        "batch_size": 8,
        "steps": None,
        "epochs": epochs,
        "checkpoint": "epoch",
        "strategy_options": {"step_s": 0.1},
        "resources": {"time": "00:05:00"},
        **more,
    }
