"""How jobs get to who executes them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Protocol

from hpcbench.cluster.plan import JobPlan, new_job_id, run_key
from hpcbench.cluster.profile import Profile
from hpcbench.config.spec import Container, RunSpec
from hpcbench.errors import HpcbenchError
from hpcbench.records import ledger
from hpcbench.records.layout import ResultsFolder
from hpcbench.records.writer import write_atomically

LOCAL = "local"


class Execution(Protocol):
    """Takes runs and sees to it that they are done."""

    @property
    def detaches(self) -> bool:
        """Whether nobody waits unless told to."""

    def check(self, runs: Sequence[RunSpec]) -> None:
        """Raise InputError for runs that it can't do; nothing is written."""

    def start(self, results: ResultsFolder, runs: Sequence[RunSpec]) -> list[str]:
        """Start jobs for all of these runs, which outlive their submitter; returns their ids."""


@dataclass(frozen=True, kw_only=True)
class OnThisMachine:
    """One job that does the runs in their order, when its turn has come."""

    shared: bool = False
    presume_silent_dead: bool = False
    detaches: bool = False

    def check(self, runs: Sequence[RunSpec]) -> None:
        """Nothing: whether a run can go here was decided run by run."""

    def start(self, results: ResultsFolder, runs: Sequence[RunSpec]) -> list[str]:
        """Start the job in a session of its own."""
        plan = JobPlan(
            job_id=new_job_id(),
            results=str(results.path),
            runs=tuple((spec.name, spec.repeat) for spec in runs),
            shared=self.shared,
            presume_silent_dead=self.presume_silent_dead,
            visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
            nodes=max(spec.resources.nodes for spec in runs),
        )
        _launch(plan)
        keys = [run_key(spec.name, spec.repeat) for spec in runs]
        ledger.append(results.ledger, ledger.Submitted(job_id=plan.job_id, executor=LOCAL, runs=keys))
        return [plan.job_id]


def _launch(plan: JobPlan) -> None:
    plan.write()
    log = plan.folder.path / "launch.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "hpcbench.cluster.launch", str(plan.folder.plan)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise HpcbenchError(f"the job could not be started: {''.join(last)} (all of it is in {log})")


@dataclass(frozen=True, kw_only=True)
class OnCluster:
    """Jobs in Slurm's queue. `parallel` is how many elements of a job array may run at a time."""

    profile: Profile = field(default_factory=Profile)
    pack: bool | int = True
    parallel: int | None = None
    collect: bool = False
    presume_silent_dead: bool = False
    detaches: bool = True

    def check(self, runs: Sequence[RunSpec]) -> None:
        """Ask Slurm whether it would take the jobs."""
        # submitit takes a third of a second to import, which a dry run and `status` need not spend.
        from hpcbench.cluster.slurm.submit import plan_allocations

        plan_allocations(runs, self)

    def start(self, results: ResultsFolder, runs: Sequence[RunSpec]) -> list[str]:
        """Submit the jobs; what was asked for is kept for `retry`."""
        from hpcbench.cluster.slurm.submit import plan_allocations, submit_all

        allocations = plan_allocations(runs, self)
        write_atomically(results.profile, json.dumps(asdict(self), indent=1))
        return submit_all(results, results.path.name, allocations, self)


def last_execution(results: ResultsFolder) -> Execution:
    """Return how a sweep was submitted the last time."""
    entries = (entry for _, entry in ledger.read(results.ledger))
    executors = [entry.executor for entry in entries if isinstance(entry, ledger.Submitted)]
    if not executors or executors[-1] == LOCAL or not results.profile.exists():
        return OnThisMachine()
    values = json.loads(results.profile.read_text())
    profile = values.pop("profile")
    tuples = {key: tuple(profile[key]) for key in ("extra", "setup")}
    container = Container(**profile.pop("container"))
    return replace(OnCluster(**values), profile=Profile(**profile | tuples, container=container))
