"""Where jobs go, and how they get there."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence

from hpcbench.cluster.plan import JobPlan, new_job_id, run_key
from hpcbench.cluster.queue import queue_folder
from hpcbench.errors import HpcbenchError, InputError
from hpcbench.records import ledger
from hpcbench.records.layout import ResultsFolder

LOCAL = "local"


def check_executor(wanted: str) -> None:
    """Raise InputError for an executor that can't be had."""
    if wanted == "slurm":
        raise InputError(
            "--executor slurm: this version runs jobs on this machine only. Say --executor local"
        )


def why_local(wanted: str) -> str | None:
    """Return what a user may wonder about where the job goes."""
    if wanted == "auto" and shutil.which("sbatch"):
        return "there is Slurm here, but this version runs jobs on this machine only: here it goes"
    return None


def start_job(
    results: ResultsFolder,
    runs: Sequence[tuple[str, int]],
    *,
    shared: bool = False,
    presume_silent_dead: bool = False,
) -> str:
    """Start one job of this machine for all of these runs, which outlives its submitter; returns its id."""
    queue_folder()  # a job that can't queue had better not start
    plan = JobPlan(
        job_id=new_job_id(),
        results=str(results.path),
        runs=tuple(runs),
        shared=shared,
        presume_silent_dead=presume_silent_dead,
        visible_devices=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    _launch(plan)
    keys = [run_key(name, repeat) for name, repeat in runs]
    ledger.append(results.ledger, ledger.Submitted(job_id=plan.job_id, executor=LOCAL, runs=keys))
    return plan.job_id


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
