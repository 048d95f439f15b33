"""Executors take runs and start jobs for them: the protocol, the executor of this machine, and the choice
between it and Slurm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.machine_resources import Machine
from hpcbench.launch.slurm import slurm_client
from hpcbench.launch.slurm.slurm_profile import Profile, SlurmExecutor
from hpcbench.runs import ledger
from hpcbench.runs.ledger import JobPlan, new_job_id, run_key
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.run_spec import Container, RunSpec

LOCAL = "local"


class Executor(Protocol):
    """Takes runs and sees to it that they are done."""

    @property
    def detaches(self) -> bool:
        """Whether nobody waits unless told to."""

    def check(self, runs: Sequence[RunSpec]) -> None:
        """Raise InputError for runs that it can't do; nothing is written."""

    def start(self, results: ResultsFolder, runs: Sequence[RunSpec]) -> list[str]:
        """Start jobs for all of these runs, which outlive their submitter; returns their ids."""


@dataclass(frozen=True, kw_only=True)
class LocalExecutor:
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
        _start_local_job(plan)
        keys = [run_key(spec.name, spec.repeat) for spec in runs]
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
    values = json.loads(results.profile.read_text())
    profile = values.pop("profile")
    tuples = {key: tuple(profile[key]) for key in ("extra", "setup")}
    container = Container(**profile.pop("container"))
    return replace(SlurmExecutor(**values), profile=Profile(**profile | tuples, container=container))


EXECUTOR_VARIABLE = "HPCBENCH_EXECUTOR"
EXECUTORS = ("auto", "slurm", "local")
LOCAL_HINT = "say --executor local"


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
            "Load the Slurm module, or say --executor local"
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
