"""Submits runs to Slurm's queue, each exactly once, even if the submitter dies or the controller does not
answer.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

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
from hpcbench.launch.slurm.slurm_profile import SlurmExecutor
from hpcbench.runs import ledger
from hpcbench.runs.ledger import JobPlan, new_job_id, run_key
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import JobFolder, ResultsFolder
from hpcbench.sweep.run_spec import RunSpec

# What a controller says when it is busy, restarting, or out of reach for a moment.
TRANSIENT_ERRORS = re.compile(
    r"socket timed out|unable to contact|temporarily unable|connection (?:refused|reset|timed out)|"
    r"did not answer|zero bytes|transport endpoint|communication (?:connection|shutdown)|"
    r"try again|resource temporarily",
    re.IGNORECASE,
)
NO_NODES_ERROR = re.compile(r"node configuration is not available|nodes? .*not available", re.IGNORECASE)
RETRY_PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
# How long a job may take from sbatch's acceptance until squeue shows it.
SQUEUE_DELAY_S = 1.0


def plan_allocations(runs: Sequence[RunSpec], wishes: SlurmExecutor) -> list[Allocation]:
    """Cut the runs into jobs by the site's limits, and let Slurm say whether it would take each.

    Raises InputError, in Slurm's own words, for what it would never start. Nothing is written or queued.
    """
    check_against(wishes.profile, runs)
    site, longest = read_cluster_config(), longest_job_s(wishes.profile.partition)
    found = allocate(runs, wishes.profile, wishes.pack, longest_s=longest, largest_array=site.max_array_size)
    asked: dict[tuple[int, ...], Allocation] = {
        (each.nodes, each.gpus, each.cpus, each.minutes): each for each in found
    }
    for allocation in asked.values():
        script = _batch_script(allocation, wishes, Path.cwd(), "trial", "true").script
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
    Whether it may, only sbatch itself says; the job, which can't begin now, is taken back at once.
    """
    try:
        _run_with_retries(["sbatch", "--test-only"], text=script)
    except SlurmError as error:
        if not NO_NODES_ERROR.search(str(error)):
            raise
        answer = _run_with_retries(["sbatch", "--parsable"], text=script)
        run_slurm(["scancel", answer.strip().partition(";")[0]])


def submit_all(
    results: ResultsFolder, sweep: str, allocations: Sequence[Allocation], wishes: SlurmExecutor
) -> list[str]:
    """Submit each allocation; returns the ids of the jobs. Raises HpcbenchError at the first that fails."""
    submitted: list[str] = []
    slurm_ids: list[str] = []
    for allocation in allocations:
        try:
            job_id, slurm_id = _submit(results, sweep, allocation, wishes)
        except SlurmError as error:
            so_far = (
                f"{len(submitted)} of {len(allocations)} jobs were submitted" if submitted else "nothing was"
            )
            raise HpcbenchError(f"sbatch: {error} ({so_far} submitted; submit again to go on)") from error
        submitted.append(job_id)
        slurm_ids.append(slurm_id)
        _print_notice(
            f"Slurm job {slurm_id}: {len(allocation.runs)} runs{', an array' if allocation.array else ''}"
        )
    if wishes.collect and slurm_ids:
        submitted.append(_submit_collector(results, sweep, wishes, slurm_ids))
    return submitted


def _submit(
    results: ResultsFolder, sweep: str, allocation: Allocation, wishes: SlurmExecutor
) -> tuple[str, str]:
    job_id = new_job_id()
    name = f"{sweep}-{job_id}"
    plan = JobPlan(
        job_id=job_id,
        results=str(results.path),
        runs=tuple((spec.name, spec.repeat) for spec in allocation.runs),
        presume_silent_dead=wishes.presume_silent_dead,
        name=name,
        array=allocation.array,
        nodes=allocation.nodes,
        max_requeues=wishes.profile.max_requeues,
        notice_s=allocation.notice_s(wishes.profile),
    )
    plan.write()
    command = shlex.join(
        [sys.executable, "-u", "-m", "hpcbench.launch.slurm.slurm_node", str(plan.folder.plan)]
    )
    executor = _batch_script(allocation, wishes, plan.folder.output, name, command)
    keys = [run_key(spec.name, spec.repeat) for spec in allocation.runs]
    entry = ledger.JobSubmitted(job_id=job_id, executor="slurm", runs=keys, name=name, array=allocation.array)
    return job_id, _record_and_submit(results, plan.folder, executor, entry)


def _submit_collector(
    results: ResultsFolder, sweep: str, wishes: SlurmExecutor, slurm_ids: Sequence[str]
) -> str:
    """Submit the job that collects when the others are over, however they ended."""
    job_id = new_job_id()
    name = f"{sweep}-{job_id}"
    folder = results.job(job_id)
    command = shlex.join([sys.executable, "-m", "hpcbench", "collect", str(results.path)])
    executor = collector_script_for(
        wishes.profile, name=name, folder=folder.output, command=command, after=slurm_ids
    )
    entry = ledger.JobSubmitted(job_id=job_id, executor="slurm", runs=[], name=name)
    _record_and_submit(results, folder, executor, entry)
    return job_id


def _record_and_submit(
    results: ResultsFolder, folder: JobFolder, executor: BatchScript, entry: ledger.JobSubmitted
) -> str:
    """Write a job down and submit it; leaves nothing where Slurm refuses it. Returns Slurm's number."""
    assert entry.name is not None
    folder.output.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.script, executor.script)
    ledger.append_entry(results.ledger, entry)
    try:
        return submit_script(executor, folder.script, entry.name)
    except SlurmError:
        ledger.append_entry(results.ledger, ledger.JobCancelled(job_id=entry.job_id))
        shutil.rmtree(folder.path)
        raise


def submit_script(executor: BatchScript, script: Path, name: str) -> str:
    """Call sbatch until it has an answer that is final; returns the number of the job."""
    said = ""
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return str(executor.number_of(run_slurm(executor.command_for(script))))
        except SlurmError as error:
            if pause_s is None or not TRANSIENT_ERRORS.search(str(error)):
                raise
            said = str(error)
        _print_notice(f"sbatch: {said}; once more in {pause_s:.0f} s")
        time.sleep(max(pause_s, SQUEUE_DELAY_S))
        # The answer may have been lost, and not the job.
        place = SlurmSnapshot([name], "now").find(name, None) or SlurmSnapshot([name], "now").find(name, 0)
        if place is not None:
            return place.slurm_id.partition("_")[0]
    raise AssertionError("the last pause is None")


def _run_with_retries(command: Sequence[str], text: str) -> str:
    for pause_s in (*RETRY_PAUSES_S, None):
        try:
            return run_slurm(command, text=text)
        except SlurmError as error:
            if pause_s is None or not TRANSIENT_ERRORS.search(str(error)):
                raise
            _print_notice(f"{command[0]}: {error}; once more in {pause_s:.0f} s")
            time.sleep(pause_s)
    raise AssertionError("the last pause is None")


def _batch_script(
    allocation: Allocation, wishes: SlurmExecutor, folder: Path, name: str, command: str
) -> BatchScript:
    return batch_script_for(
        allocation, wishes.profile, name=name, folder=folder, command=command, parallel=wishes.parallel
    )


def _print_notice(text: str) -> None:
    print(f"hpcbench: {text}", file=sys.stderr)
