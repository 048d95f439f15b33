"""Executors take runs and start jobs for them: the protocol, the executor of this machine, and the choice
between it and Slurm.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pydantic import ValidationError

from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.machine_resources import Machine
from hpcbench.launch.slurm import slurm_client
from hpcbench.launch.slurm.slurm_submission import EXECUTOR_JSON
from hpcbench.runs import ledger
from hpcbench.runs.ledger import JobPlan, new_job_id, run_key
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import RunSpec

LOCAL = "local"


class PlannedJobs(Protocol):
    """Jobs that an executor can do; nothing of them is written or queued yet."""

    def start(self, results: ResultsFolder) -> list[str]:
        """Start the jobs, which outlive their submitter; returns their ids."""


class Executor(Protocol):
    """Takes runs and sees to it that they are done."""

    @property
    def detaches(self) -> bool:
        """Whether a submission returns at once unless it is asked to wait."""

    def plan(self, runs: Sequence[RunSpec]) -> PlannedJobs:
        """Return the jobs of all of these runs; raises InputError for runs that it can't do."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
    """One job that does the runs in their order, when its turn has come."""

    shared: bool = False
    presume_silent_dead: bool = False
    detaches: bool = False

    def plan(self, runs: Sequence[RunSpec]) -> LocalJob:
        """Return the job: whether a run can go here was decided run by run."""
        return LocalJob(executor=self, runs=tuple(runs))


@dataclass(frozen=True, kw_only=True)
class LocalJob:
    """The one job of a submission to this machine."""

    executor: LocalExecutor
    runs: tuple[RunSpec, ...]

    def start(self, results: ResultsFolder) -> list[str]:
        """Start the job in a session of its own."""
        plan = JobPlan(
            job_id=new_job_id(),
            results=str(results.path),
            runs=tuple((spec.name, spec.repeat) for spec in self.runs),
            shared=self.executor.shared,
            presume_silent_dead=self.executor.presume_silent_dead,
            visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
            nodes=max(spec.resources.nodes for spec in self.runs),
        )
        _start_local_job(plan)
        keys = [run_key(spec.name, spec.repeat) for spec in self.runs]
        ledger.append_entry(
            results.ledger, ledger.JobSubmitted(job_id=plan.job_id, executor=LOCAL, runs=keys)
        )
        return [plan.job_id]


def _start_local_job(plan: JobPlan) -> None:
    plan.write()
    log = plan.folder.path / "launch.log"
    with log.open("wb") as output:
        done = subprocess.run(
            [sys.executable, "-m", "hpcbench.launch.start_local_job", str(plan.folder.plan)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            check=False,
        )
    if done.returncode:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise HpcbenchError(f"the job could not be started: {''.join(last)} (all of it is in {log})")


def last_executor(results: ResultsFolder) -> Executor:
    """Return how a sweep was submitted the last time."""
    entries = (entry for _, entry in ledger.read_ledger(results.ledger))
    executors = [entry.executor for entry in entries if isinstance(entry, ledger.JobSubmitted)]
    if not executors or executors[-1] == LOCAL or not results.profile.exists():
        return LocalExecutor()
    try:
        return EXECUTOR_JSON.validate_json(results.profile.read_bytes())
    except ValidationError as error:
        raise InputError(f"{results.profile}: this is no submission of hpcbench ({error})") from error


EXECUTOR_VARIABLE = "HPCBENCH_EXECUTOR"
EXECUTORS = ("auto", "slurm", "local")
LOCAL_HINT = "use --executor local"


class ExecutorChoice(Enum):
    """Who executes jobs."""

    LOCAL = "this machine, one job at a time"
    SLURM = "Slurm"


def choose_executor(
    wanted: str | None, machine: Machine, environment: Mapping[str, str] = os.environ
) -> ExecutorChoice:
    """Return where jobs go; raises InputError where what is wanted is not there.

    `auto`: inside an allocation, there; else Slurm where it answers; else this machine, unless it looks like
    the login node of a cluster whose Slurm can't be used.
    """
    wanted = wanted or environment.get(EXECUTOR_VARIABLE) or "auto"
    if wanted not in EXECUTORS:
        raise InputError(f"{EXECUTOR_VARIABLE}: found {wanted!r}; allowed: {', '.join(EXECUTORS)}")
    if wanted == "local":
        return ExecutorChoice.LOCAL
    if wanted == "slurm":
        _require_slurm()
        return ExecutorChoice.SLURM
    if inside_allocation(environment):
        return ExecutorChoice.LOCAL
    if slurm_client.is_installed() and slurm_client.is_configured():
        _require_slurm()
        return ExecutorChoice.SLURM
    if slurm_client.is_configured() and not machine.gpus:
        raise InputError(
            "Slurm is configured here, and there is neither sbatch nor a GPU: this looks like a login node. "
            "Load the Slurm module, or use --executor local"
        )
    return ExecutorChoice.LOCAL


def inside_allocation(environment: Mapping[str, str]) -> bool:
    """Return whether this process is part of a job of Slurm, on one of its nodes."""
    return "SLURM_JOB_ID" in environment and "SLURM_JOB_NODELIST" in environment


def _require_slurm() -> None:
    if not slurm_client.is_installed():
        raise InputError(f"--executor slurm: there is no sbatch here. Load the Slurm module, or {LOCAL_HINT}")
    try:
        slurm_client.read_cluster_config()
    except slurm_client.SlurmError as error:
        raise InputError(f"Slurm does not answer: {error}. Try again later, or {LOCAL_HINT}") from error
