"""Runs into Slurm's queue: each exactly once, whatever happens to the submitter in between.

A job is written down (its plan, its line in the ledger) before sbatch is called, under a name that is
unique. Whoever looks later asks Slurm for that name: a job that got there belongs to its runs, one that did
not is simply submitted again.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from hpcbench.cluster.executor import OnCluster
from hpcbench.cluster.plan import JobPlan, new_job_id, run_key
from hpcbench.cluster.slurm.allocations import Allocation, allocate, check_against
from hpcbench.cluster.slurm.ask import SlurmError, ask
from hpcbench.cluster.slurm.queue import Snapshot
from hpcbench.cluster.slurm.script import Executor, collector_for, executor_for
from hpcbench.cluster.slurm.site import longest_job_s, this_site
from hpcbench.config.spec import RunSpec
from hpcbench.errors import HpcbenchError, InputError
from hpcbench.records import ledger
from hpcbench.records.layout import JobFolder, ResultsFolder
from hpcbench.records.writer import write_atomically

# What a controller says when it is busy, restarting, or out of reach for a moment.
TRANSIENT = re.compile(
    r"socket timed out|unable to contact|temporarily unable|connection (?:refused|reset|timed out)|"
    r"did not answer|zero bytes|transport endpoint|communication (?:connection|shutdown)|"
    r"try again|resource temporarily",
    re.IGNORECASE,
)
NO_NODES = re.compile(r"node configuration is not available|nodes? .*not available", re.IGNORECASE)
PAUSES_S = (1.0, 2.0, 4.0, 8.0, 16.0)
# How long a job may take from sbatch's acceptance until squeue shows it.
SEEN_AFTER_S = 1.0


def plan_allocations(runs: Sequence[RunSpec], wishes: OnCluster) -> list[Allocation]:
    """Cut the runs into jobs by the site's limits, and let Slurm say whether it would take each.

    Raises InputError, in Slurm's own words, for what it would never start. Nothing is written or queued.
    """
    check_against(wishes.profile, runs)
    site, longest = this_site(), longest_job_s(wishes.profile.partition)
    found = allocate(runs, wishes.profile, wishes.pack, longest_s=longest, largest_array=site.max_array_size)
    asked: dict[tuple[int, ...], Allocation] = {
        (each.nodes, each.gpus, each.cpus, each.minutes): each for each in found
    }
    for allocation in asked.values():
        script = _executor(allocation, wishes, Path.cwd(), "trial", "true").script
        try:
            _try(script)
        except SlurmError as error:
            if TRANSIENT.search(str(error)):
                raise
            needs = f"{allocation.nodes} nodes with {allocation.gpus} GPUs and {allocation.cpus} CPUs each"
            raise InputError(
                f"Slurm refuses a job for {allocation.runs[0].name}"
                f"{f' and {len(allocation.runs) - 1} more runs' if len(allocation.runs) > 1 else ''} "
                f"({needs}, {allocation.minutes} minutes): {error}. Nothing was submitted"
            ) from error
    return found


def _try(script: str) -> None:
    """Raise SlurmError where Slurm would not take a script.

    --test-only looks for nodes that are up: what it refuses only for want of them may still wait for them.
    Whether it may, only sbatch itself says; the job, which can't begin now, is taken back at once.
    """
    try:
        _patiently(["sbatch", "--test-only"], text=script)
    except SlurmError as error:
        if not NO_NODES.search(str(error)):
            raise
        answer = _patiently(["sbatch", "--parsable"], text=script)
        ask(["scancel", answer.strip().partition(";")[0]])


def submit_all(
    results: ResultsFolder, sweep: str, allocations: Sequence[Allocation], wishes: OnCluster
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
        _say(f"Slurm job {slurm_id}: {len(allocation.runs)} runs{', an array' if allocation.array else ''}")
    if wishes.collect and slurm_ids:
        submitted.append(_submit_collector(results, sweep, wishes, slurm_ids))
    return submitted


def _submit(results: ResultsFolder, sweep: str, allocation: Allocation, wishes: OnCluster) -> tuple[str, str]:
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
    command = shlex.join([sys.executable, "-u", "-m", "hpcbench.cluster.slurm.node", str(plan.folder.plan)])
    executor = _executor(allocation, wishes, plan.folder.output, name, command)
    keys = [run_key(spec.name, spec.repeat) for spec in allocation.runs]
    entry = ledger.Submitted(job_id=job_id, executor="slurm", runs=keys, name=name, array=allocation.array)
    return job_id, _hand_over(results, plan.folder, executor, entry)


def _submit_collector(results: ResultsFolder, sweep: str, wishes: OnCluster, slurm_ids: Sequence[str]) -> str:
    """Submit the job that collects when the others are over, however they ended."""
    job_id = new_job_id()
    name = f"{sweep}-{job_id}"
    folder = results.job(job_id)
    command = shlex.join([sys.executable, "-m", "hpcbench", "collect", str(results.path)])
    executor = collector_for(
        wishes.profile, name=name, folder=folder.output, command=command, after=slurm_ids
    )
    entry = ledger.Submitted(job_id=job_id, executor="slurm", runs=[], name=name)
    _hand_over(results, folder, executor, entry)
    return job_id


def _hand_over(results: ResultsFolder, folder: JobFolder, executor: Executor, entry: ledger.Submitted) -> str:
    """Write a job down and submit it; leaves nothing where Slurm refuses it. Returns Slurm's number."""
    assert entry.name is not None
    folder.output.mkdir(parents=True, exist_ok=True)
    write_atomically(folder.script, executor.script)
    ledger.append(results.ledger, entry)
    try:
        return submit_script(executor, folder.script, entry.name)
    except SlurmError:
        ledger.append(results.ledger, ledger.Cancelled(job_id=entry.job_id))
        shutil.rmtree(folder.path)
        raise


def submit_script(executor: Executor, script: Path, name: str) -> str:
    """Call sbatch until it has an answer that is final; returns the number of the job."""
    said = ""
    for pause_s in (*PAUSES_S, None):
        try:
            return str(executor.number_of(ask(executor.command_for(script))))
        except SlurmError as error:
            if pause_s is None or not TRANSIENT.search(str(error)):
                raise
            said = str(error)
        _say(f"sbatch: {said}; once more in {pause_s:.0f} s")
        time.sleep(max(pause_s, SEEN_AFTER_S))
        # The answer may have been lost, and not the job.
        place = Snapshot([name], "now").find(name, None) or Snapshot([name], "now").find(name, 0)
        if place is not None:
            return place.slurm_id.partition("_")[0]
    raise AssertionError("the last pause is None")


def _patiently(command: Sequence[str], text: str) -> str:
    for pause_s in (*PAUSES_S, None):
        try:
            return ask(command, text=text)
        except SlurmError as error:
            if pause_s is None or not TRANSIENT.search(str(error)):
                raise
            _say(f"{command[0]}: {error}; once more in {pause_s:.0f} s")
            time.sleep(pause_s)
    raise AssertionError("the last pause is None")


def _executor(allocation: Allocation, wishes: OnCluster, folder: Path, name: str, command: str) -> Executor:
    return executor_for(
        allocation, wishes.profile, name=name, folder=folder, command=command, parallel=wishes.parallel
    )


def _say(text: str) -> None:
    print(f"hpcbench: {text}", file=sys.stderr)
