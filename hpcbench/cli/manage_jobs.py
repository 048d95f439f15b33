"""`hpcbench status`, `cancel`, `retry` and `clean`: what they print and what they return as exit status."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.launch.slurm.slurm_client import SlurmSnapshot
from hpcbench.runs.jobs import Jobs, cancel_job, read_jobs
from hpcbench.runs.results_folder import ResultsFolder, open_results_folder
from hpcbench.runs.run_status import (
    BAD_STATES,
    RunStatus,
    count_states,
    read_status,
    removable_files,
    remove_files,
    status_of_runs,
)
from hpcbench.sweep.catalog_entries import Catalog

if TYPE_CHECKING:
    from hpcbench.launch.retry import RetryRequest

logger = logging.getLogger(__name__)

WATCH_S = 2.0


def status(path: str, *, watch: bool, as_json: bool) -> int:
    """Print the state of every run; returns 1 where one has failed or is lost."""
    results = _open(path)
    jobs = read_jobs(results, SlurmSnapshot)
    runs = status_of_runs(results, jobs)
    problem = next((job.scheduler.problem for job in jobs if job.scheduler and job.scheduler.problem), None)
    if problem:
        logger.warning("%s. The states of unfinished runs come from their records", problem)
    if as_json:
        print(json.dumps(_to_json(results, jobs, runs), indent=1))
    else:
        from hpcbench.cli import terminal_tables

        if watch:
            runs = _watch(results)
        terminal_tables.console().print(terminal_tables.status_table(results.path, runs))
    return 1 if any(run.state in BAD_STATES for run in runs) else 0


def _open(path: str) -> ResultsFolder:
    return ResultsFolder(open_results_folder(Path(path)).path.absolute())


def _to_json(results: ResultsFolder, jobs: Jobs, runs: Sequence[RunStatus]) -> dict[str, object]:
    return {
        "results": str(results.path),
        "counts": count_states(runs),
        "jobs": [
            {"job_id": job.job_id, "alive": job.alive(), "cancelled": job.cancelled, "runs": list(job.runs)}
            for job in jobs
        ],
        "runs": [run.to_json() for run in runs],
    }


def _watch(results: ResultsFolder) -> list[RunStatus]:
    """Show the table anew until nothing is running or queued any more."""
    from rich.live import Live

    from hpcbench.cli import terminal_tables
    from hpcbench.cli.submit_and_wait import Backoff

    before = runs = read_status(results, SlurmSnapshot)
    backoff = Backoff(WATCH_S)
    with Live(console=terminal_tables.console(stderr=True), auto_refresh=False, transient=True) as live:
        while any(run.is_busy for run in runs):
            live.update(terminal_tables.status_table(results.path, runs), refresh=live.console.is_terminal)
            backoff.sleep(changed=runs != before)
            before, runs = runs, read_status(results, SlurmSnapshot)
    return runs


def cancel(path: str) -> int:
    """End all jobs of a results folder."""
    from hpcbench.launch.slurm.slurm_submission import cancel_slurm_jobs

    results = _open(path)
    living = [job for job in read_jobs(results, SlurmSnapshot) if job.alive()]
    for number in cancel_slurm_jobs(results, [job for job in living if job.scheduler]):
        print(f"cancelled Slurm job {number}")
    for job in living:
        if not job.scheduler:
            cancel_job(results, job)
            print(f"cancelled job {job.job_id}")
    if not living:
        logger.info("no job of these results is running or waiting")
    return 0


def retry(
    path: str,
    request: RetryRequest,
    catalog: Catalog,
    rank: Callable[[ResultsFolder], None],
    *,
    detach: bool | None,
) -> int:
    """Do runs again that are not done; returns the exit status. `rank` prints the table at the end."""
    # Profiles are checked by pydantic, which `status` need not wait for.
    from hpcbench.cli import submit_and_wait
    from hpcbench.launch.retry import retry_runs

    results = _open(path)
    with submit_and_wait.deferred_interrupt() as interrupted:
        retried = retry_runs(results, request, catalog)
    if retried is None:
        logger.info("no run of these results is %s", " or ".join(request.states))
        return 0
    for change in retried.changes:
        logger.info("%s", change)
    logger.info("%d runs again", len(retried.runs))
    detach = retried.detaches if detach is None else detach
    if detach and not interrupted:
        return submit_and_wait.print_job_ids(results, retried.job_ids)
    keys = [run.key for run in retried.runs]
    return submit_and_wait.wait_for_runs(results, retried.job_ids, keys, rank, interrupted=bool(interrupted))


def clean(path: str) -> int:
    """Remove what no later command needs; records always stay."""
    results = _open(path)
    jobs = read_jobs(results, SlurmSnapshot)
    runs = status_of_runs(results, jobs)
    removable = removable_files(results, jobs, runs)
    freed_bytes = remove_files(removable)
    print(f"removed {len(removable)} files and folders, {freed_bytes / 1e6:.1f} MB")
    busy = sum(run.is_busy for run in runs)
    if busy:
        logger.info("%d runs are in a job: not touched", busy)
    return 0
