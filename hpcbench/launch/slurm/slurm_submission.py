"""Submits runs to Slurm's queue, each exactly once, even if the submitter dies or the controller does not
answer.
"""

from __future__ import annotations

import logging
import re
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.slurm.batch_script import (
    Allocation,
    BatchScript,
    allocate,
    batch_script_for,
    check_against,
    collector_script_for,
)
from hpcbench.launch.slurm.slurm_client import (
    SlurmError,
    SlurmSnapshot,
    longest_job_s,
    read_cluster_config,
    run_slurm,
)
from hpcbench.launch.slurm.slurm_profile import Profile
from hpcbench.runs import ledger
from hpcbench.runs.jobs import CANCEL_TIMEOUT_S, Job, read_jobs
from hpcbench.runs.ledger import JobPlan, new_job_id, run_key
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import JobFolder, ResultsFolder
from hpcbench.sweep.run_spec import RunSpec

logger = logging.getLogger(__name__)

# Messages of a controller that is restarting, or out of reach for a moment.
TRANSIENT_ERRORS = re.compile(
    r"socket timed out|unable to contact|temporarily unable|connection (?:refused|reset|timed out)|"
    r"did not answer|zero bytes|transport endpoint|communication (?:connection|shutdown)|"
    r"try again|resource temporarily",
    re.IGNORECASE,
)
NO_NODES_ERROR = re.compile(r"node configuration is not available|nodes? .*not available", re.IGNORECASE)
# None is shorter than squeue takes to show a job that sbatch has accepted.
RETRY_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)


@dataclass(frozen=True, kw_only=True)
class SlurmExecutor:
    """Jobs in Slurm's queue. `parallel` is how many elements of a job array may run at a time."""

    profile: Profile = field(default_factory=Profile)
    pack: bool | int = True
    parallel: int | None = None
    collect: bool = False
    presume_silent_dead: bool = False
    detaches: bool = True

    def plan(self, runs: Sequence[RunSpec]) -> SlurmJobs:
        """Cut the runs into jobs, and ask Slurm whether it would take them."""
        return SlurmJobs(executor=self, allocations=tuple(plan_allocations(runs, self)))


@dataclass(frozen=True, kw_only=True)
class SlurmJobs:
    """Jobs that Slurm would take."""

    executor: SlurmExecutor
    allocations: tuple[Allocation, ...]

    def start(self, results: ResultsFolder) -> list[str]:
        """Submit the jobs; what was asked for is kept for `retry`."""
        write_atomically(results.profile, EXECUTOR_JSON.dump_json(self.executor, indent=1).decode())
        return submit_all(results, results.path.name, self.allocations, self.executor)


# Validated again with every `retry`: it may have been edited.
EXECUTOR_JSON = TypeAdapter(SlurmExecutor)


def plan_allocations(runs: Sequence[RunSpec], executor: SlurmExecutor) -> list[Allocation]:
    """Cut the runs into jobs by the site's limits, and ask Slurm whether it would take each.

    Raises InputError, with Slurm's own message, for what it would never start. Nothing is written or queued.
    """
    check_against(executor.profile, runs)
    site, longest = read_cluster_config(), longest_job_s(executor.profile.partition)
    found = allocate(
        runs, executor.profile, executor.pack, longest_s=longest, largest_array=site.max_array_size
    )
    asked: dict[tuple[int, ...], Allocation] = {
        (one.nodes, one.gpus, one.cpus, one.minutes): one for one in found
    }
    for allocation in asked.values():
        script = _batch_script(allocation, executor, Path.cwd(), "trial", "true").text
        try:
            _test_script(script)
        except SlurmError as error:
            if TRANSIENT_ERRORS.search(str(error)):
                raise
            needs = f"{allocation.nodes} nodes with {allocation.gpus} GPUs and {allocation.cpus} CPUs each"
            raise InputError(
                f"Slurm refuses a job for {allocation.runs[0].name}"
                f"{f' and {len(allocation.runs) - 1} more runs' if len(allocation.runs) > 1 else ''} "
                f"({needs}, {allocation.minutes} minutes): {error}. Nothing was submitted"
            ) from error
    return found


def _test_script(script: str) -> None:
    """Raise SlurmError where Slurm would not take a script.

    --test-only looks for nodes that are up: what it refuses only for want of them may still wait for them.
    Whether it may, only sbatch itself tells; the job, which can't begin now, is taken back at once.
    """
    try:
        _run_with_retries(["sbatch", "--test-only"], text=script)
    except SlurmError as error:
        if not NO_NODES_ERROR.search(str(error)):
            raise
        answer = _run_with_retries(["sbatch", "--parsable"], text=script)
        run_slurm(["scancel", _parse_job_number(answer)])


def submit_all(
    results: ResultsFolder, sweep: str, allocations: Sequence[Allocation], executor: SlurmExecutor
) -> list[str]:
    """Submit each allocation; returns the ids of the jobs. Raises HpcbenchError at the first that fails."""
    submitted: list[str] = []
    slurm_ids: list[str] = []
    for allocation in allocations:
        try:
            job_id, slurm_id = _submit(results, sweep, allocation, executor)
        except SlurmError as error:
            so_far = f"{len(submitted)} of {len(allocations)} jobs were" if submitted else "nothing was"
            raise HpcbenchError(f"sbatch: {error} ({so_far} submitted; submit again to go on)") from error
        submitted.append(job_id)
        slurm_ids.append(slurm_id)
        logger.info(
            f"Slurm job {slurm_id}: {len(allocation.runs)} runs{', an array' if allocation.array else ''}"
        )
    if executor.collect and slurm_ids:
        submitted.append(_submit_collector(results, sweep, executor, slurm_ids))
    return submitted


def _submit(
    results: ResultsFolder, sweep: str, allocation: Allocation, executor: SlurmExecutor
) -> tuple[str, str]:
    job_id = new_job_id()
    name = f"{sweep}-{job_id}"
    plan = JobPlan(
        job_id=job_id,
        results=str(results.path),
        runs=tuple((spec.name, spec.repeat) for spec in allocation.runs),
        presume_silent_dead=executor.presume_silent_dead,
        name=name,
        array=allocation.array,
        nodes=allocation.nodes,
        max_requeues=executor.profile.max_requeues,
        notice_s=allocation.notice_s(executor.profile),
    )
    plan.write()
    command = shlex.join(
        [sys.executable, "-u", "-m", "hpcbench.launch.slurm.slurm_node", str(plan.folder.plan)]
    )
    script = _batch_script(allocation, executor, plan.folder.output, name, command)
    keys = [run_key(spec.name, spec.repeat) for spec in allocation.runs]
    entry = ledger.JobSubmitted(job_id=job_id, executor="slurm", runs=keys, name=name, array=allocation.array)
    return job_id, _record_and_submit(results, plan.folder, script, entry)


def _submit_collector(
    results: ResultsFolder, sweep: str, executor: SlurmExecutor, slurm_ids: Sequence[str]
) -> str:
    """Submit the job that collects when the others are over, however they ended."""
    job_id = new_job_id()
    name = f"{sweep}-{job_id}"
    folder = results.job(job_id)
    command = shlex.join([sys.executable, "-m", "hpcbench", "collect", str(results.path)])
    script = collector_script_for(
        executor.profile, name=name, folder=folder.output, command=command, after=slurm_ids
    )
    entry = ledger.JobSubmitted(job_id=job_id, executor="slurm", runs=[], name=name)
    _record_and_submit(results, folder, script, entry)
    return job_id


def _record_and_submit(
    results: ResultsFolder, folder: JobFolder, script: BatchScript, entry: ledger.JobSubmitted
) -> str:
    """Write a job down and submit it; leaves nothing where Slurm refuses it. Returns Slurm's number."""
    assert entry.name is not None
    folder.output.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.script, script.text)
    ledger.append_entry(results.ledger, entry)
    try:
        return submit_script(folder.script, entry.name)
    except SlurmError:
        ledger.append_entry(results.ledger, ledger.JobCancelled(job_id=entry.job_id))
        shutil.rmtree(folder.path)
        raise


def submit_script(script: Path, name: str) -> str:
    """Call sbatch until it has an answer that is final; returns the number of the job."""

    def already_submitted() -> str | None:
        """Return the number of the job where only the answer was lost."""
        state = SlurmSnapshot([name], "now").find(name, None) or SlurmSnapshot([name], "now").find(name, 0)
        return state.scheduler_id.partition("_")[0] if state else None

    return _parse_job_number(
        _run_with_retries(["sbatch", "--parsable", str(script)], found=already_submitted)
    )


def _parse_job_number(answer: str) -> str:
    """Read what `sbatch --parsable` prints: the number, and the cluster's name where there are several."""
    return answer.strip().partition(";")[0]


def _run_with_retries(
    command: Sequence[str], *, text: str | None = None, found: Callable[[], str | None] = lambda: None
) -> str:
    """Run a command until its answer is final. `found` looks after each failure for what it may have done."""
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return run_slurm(command, text=text)
        except SlurmError as error:
            if pause_s is None or not TRANSIENT_ERRORS.search(str(error)):
                raise
            logger.info(f"{command[0]}: {error}; once more in {pause_s:.0f} s")
        time.sleep(pause_s)
        if (answer := found()) is not None:
            return answer
    raise AssertionError("the last pause is None")


def _batch_script(
    allocation: Allocation, executor: SlurmExecutor, folder: Path, name: str, command: str
) -> BatchScript:
    return batch_script_for(
        allocation, executor.profile, name=name, folder=folder, command=command, parallel=executor.parallel
    )


CANCEL_POLL_S = 0.5


def cancel_slurm_jobs(results: ResultsFolder, jobs: Sequence[Job]) -> list[str]:
    """Cancel jobs in Slurm's queue, all with one request; returns their numbers there.

    Raises SlurmError where Slurm refuses or does not answer.
    """
    states = [job.scheduled() for job in jobs]
    problem = next((job.scheduler.problem for job in jobs if job.scheduler and job.scheduler.problem), None)
    if problem:
        raise SlurmError(f"Slurm does not answer: {problem}. Nothing was cancelled")
    slurm_ids = list(dict.fromkeys(state.scheduler_id.partition("_")[0] for state in states if state))
    if not slurm_ids:
        return []
    for job_id in dict.fromkeys(job.folder.path.name for job in jobs):
        ledger.append_entry(results.ledger, ledger.JobCancelled(job_id=job_id))
    run_slurm(["scancel", *slurm_ids])
    deadline = time.monotonic() + CANCEL_TIMEOUT_S
    while time.monotonic() < deadline and any(
        job.alive() for job in read_jobs(results, SlurmSnapshot) if job.scheduler
    ):
        time.sleep(CANCEL_POLL_S)
    return slurm_ids
