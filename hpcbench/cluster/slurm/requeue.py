"""Back into the queue: a job that has to leave before its runs are done asks Slurm for another start."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from pathlib import Path

from hpcbench.cluster.claim import latest_claim
from hpcbench.cluster.inbox import Inbox
from hpcbench.cluster.joblog import say
from hpcbench.cluster.plan import JobPlan, run_key
from hpcbench.cluster.slurm.ask import SlurmError, ask
from hpcbench.cluster.slurm.here import Here
from hpcbench.cluster.stored import read_stored
from hpcbench.records import ledger
from hpcbench.records.layout import ResultsFolder
from hpcbench.records.tail import is_finished

# Sent before the end of the time limit (--signal), and by preemption where the site has it so.
NOTICES = (signal.SIGUSR1, signal.SIGUSR2)


def if_worth_it(
    plan: JobPlan, here: Here, job_id: str, runs: Sequence[tuple[str, int]], inbox: Inbox
) -> None:
    """Put this job back into the queue if it was not cancelled, has work left, and may still try."""
    results = ResultsFolder(Path(plan.results))
    left = [run_key(name, repeat) for name, repeat in runs if not _is_over(results, name, repeat, job_id)]
    if not left or not _is_notice(inbox.stopped_by, here):
        return
    tries = sum(
        isinstance(entry, ledger.Requeued) and entry.job_id == job_id and entry.runs[:1] == left[:1]
        for _, entry in ledger.read(results.ledger)
    )
    if tries >= plan.max_requeues:
        say(f"not put back into the queue: {left[0]} was not finished in {tries + 1} starts (max_requeues)")
        return
    assert inbox.stopped_by is not None
    entry = ledger.Requeued(job_id=job_id, runs=left, reason=f"told by {inbox.stopped_by.name}")
    ledger.append(results.ledger, entry)
    say(f"back into the queue with {len(left)} runs")
    try:
        ask(["scontrol", "requeue", here.slurm_id])
    except SlurmError as error:
        say(f"Slurm did not put the job back into its queue: {error}")


def _is_over(results: ResultsFolder, name: str, repeat: int, job_id: str) -> bool:
    """Return whether nothing is left to do of a run: it is done, or has failed."""
    folder = results.run(name, repeat)
    claim = latest_claim(folder)
    if claim is None:
        return False
    if claim.ending and claim.ending.state == "failed":
        return True
    return is_finished(folder, claim.attempt, read_stored(folder).spec.processes)


def _is_notice(number: signal.Signals | None, here: Here) -> bool:
    """Return whether a signal says that time is up, and not that somebody wants the job to end.

    SIGTERM comes with both: only Slurm knows whether a running job is to make room for another.
    """
    if number in NOTICES:
        return True
    try:
        facts = ask(["scontrol", "--oneliner", "show", "job", here.slurm_id])
    except SlurmError:
        return False
    preempted = re.search(r"PreemptTime=(\S+)", facts)
    return "JobState=RUNNING" in facts and preempted is not None and preempted[1] != "None"
