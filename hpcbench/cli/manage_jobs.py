"""`hpcbench status`, `cancel`, `retry` and `clean`: what they print and what they return as exit status."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from hpcbench.launch.jobs import Jobs, cancel_job, cancel_on_cluster, read_jobs
from hpcbench.launch.retry import refuse_impossible
from hpcbench.launch.run_status import (
    BAD_STATES,
    RunState,
    RunStatus,
    count_states,
    open_results_folder,
    read_status,
)
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.runs.spec_file import read_spec_file
from hpcbench.sweep.catalog_entries import Catalog

WATCH_S, SLOWEST_WATCH_S = 2.0, 30.0
# What plain `retry` takes: everything that is neither done nor in a job.
RETRIED_STATES: tuple[RunState, ...] = ("failed", "lost", "interrupted", "cancelled", "pending")


def status(path: str, *, watch: bool, as_json: bool) -> int:
    """Print the state of every run; returns 1 where one has failed or is lost."""
    results = open_results_folder(path)
    jobs = read_jobs(results)
    runs = read_status(results, jobs)
    silent = next((job.slurm.problem for job in jobs if job.slurm and job.slurm.problem), None)
    if silent:
        print(
            f"hpcbench: {silent}. What is said of unfinished runs comes from their records", file=sys.stderr
        )
    if as_json:
        print(json.dumps(_to_json(results, jobs, runs), indent=1))
    else:
        from hpcbench.cli import terminal_tables

        if watch:
            runs = _watch(results)
        terminal_tables.console().print(terminal_tables.status_table(results.path, runs))
    return 1 if any(run.state in BAD_STATES for run in runs) else 0


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

    before = runs = read_status(results)
    pause_s = WATCH_S
    with Live(console=terminal_tables.console(stderr=True), auto_refresh=False, transient=True) as live:
        while any(run.queued or run.state == "running" for run in runs):
            live.update(terminal_tables.status_table(results.path, runs), refresh=live.console.is_terminal)
            time.sleep(pause_s * random.uniform(0.8, 1.2))  # a scheduler is asked less and less often
            pause_s = min(SLOWEST_WATCH_S, pause_s * 1.2) if runs == before else WATCH_S
            before, runs = runs, read_status(results)
    return runs


def cancel(path: str) -> int:
    """End all jobs of a results folder."""
    results = open_results_folder(path)
    living = [job for job in read_jobs(results) if job.alive()]
    for job_id in cancel_on_cluster(results, [job for job in living if job.slurm]):
        print(f"cancelled {job_id}")
    for job in living:
        if not job.slurm:
            cancel_job(results, job)
            print(f"cancelled job {job.job_id}")
    if not living:
        print("hpcbench: no job of these results is running or waiting", file=sys.stderr)
    return 0


def retry(
    path: str,
    catalog: Catalog,
    rank: Callable[[ResultsFolder], None],
    *,
    failed: bool,
    lost: bool,
    shared: bool,
    detach: bool | None,
    exclude_failed_nodes: bool = False,
    more: float | None = None,
) -> int:
    """Do runs again that are not done; returns the exit status. `rank` prints the table at the end.

    They go where the sweep went the last time. `more` multiplies time or memory where a run had too little.
    """
    # Profiles are checked by pydantic, which `status` need not wait for.
    from hpcbench.cli import submit_and_wait
    from hpcbench.launch import retry
    from hpcbench.launch.executors import LocalExecutor

    results = open_results_folder(path)
    execution = retry.executor_of_last_submission(results, shared=shared, presume_silent_dead=lost)
    states = [*(["failed"] if failed else []), *(["lost"] if lost else [])] or list(RETRIED_STATES)
    with submit_and_wait.deferred_interrupt() as interrupted, FileLock(results.submission_lock):
        runs = [run for run in read_status(results) if run.state in states and not run.queued]
        if not runs:
            print(f"hpcbench: no run of these results is {' or '.join(states)}", file=sys.stderr)
            return 0
        if isinstance(execution, LocalExecutor):
            refuse_impossible(results, runs, catalog)
        in_order = sorted(runs, key=lambda run: (run.repeat, run.name))  # repeats stay interleaved
        if exclude_failed_nodes:
            execution = retry.without_failed_nodes(execution, results, in_order)
        if more is not None:
            execution = retry.with_more_resources(execution, results, in_order, more)
        specs = [read_spec_file(results.run(run.name, run.repeat)).spec for run in in_order]
        execution.check(specs)
        job_ids = execution.start(results, specs)
    print(f"hpcbench: {len(runs)} runs again", file=sys.stderr)
    detach = execution.detaches if detach is None else detach
    if detach and not interrupted:
        return submit_and_wait.print_job_ids(results, job_ids)
    keys = [run.key for run in in_order]
    return submit_and_wait.wait_for_runs(results, job_ids, keys, rank, interrupted=bool(interrupted))


def clean(path: str) -> int:
    """Remove what no later command needs; records always stay."""
    results = open_results_folder(path)
    runs = read_status(results)
    busy = [run for run in runs if run.state == "running" or run.queued]
    useless = _removable_job_folders(results)
    for run in runs:
        if run not in busy:
            useless += _removable_run_files(results, run)
    freed = sum(_disk_bytes(found) for found in useless)
    for found in useless:
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    print(f"removed {len(useless)} files and folders, {freed / 1e6:.1f} MB")
    if busy:
        print(f"hpcbench: {len(busy)} runs are in a job: left alone", file=sys.stderr)
    return 0


def _removable_job_folders(results: ResultsFolder) -> list[Path]:
    living = {job.folder.path.name for job in read_jobs(results) if job.alive()}
    return [folder for folder in results.jobs.glob("*") if folder.is_dir() and folder.name not in living]


def _removable_run_files(results: ResultsFolder, run: RunStatus) -> list[Path]:
    folder = results.run(run.name, run.repeat)
    older = folder.attempts()[:-1]
    logs = [log for attempt in older for log in folder.logs.glob(f"a{attempt}.*.log")]
    meetings = [folder.rendezvous(attempt) for attempt in older if folder.rendezvous(attempt).exists()]
    # A run that is not done may go on from its checkpoint.
    done = [folder.checkpoint] if run.state == "done" and folder.checkpoint.is_dir() else []
    return [*logs, *meetings, *done]


def _disk_bytes(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
