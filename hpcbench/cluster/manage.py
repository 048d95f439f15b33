"""`hpcbench status | cancel | retry | clean`: what one does with runs that have been submitted."""

from __future__ import annotations

import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from filelock import FileLock

from hpcbench.cluster import interrupts
from hpcbench.cluster.admission import why_not
from hpcbench.cluster.jobs import Jobs, cancel_job, cancel_on_cluster, read_jobs
from hpcbench.cluster.machine import this_machine
from hpcbench.cluster.status import BAD, RunStatus, State, counts, open_results, read_status
from hpcbench.cluster.stored import read_stored
from hpcbench.config.catalog import Catalog
from hpcbench.errors import InputError
from hpcbench.records.layout import ResultsFolder

WATCH_S, SLOWEST_WATCH_S = 2.0, 30.0
# What plain `retry` takes: everything that is neither done nor in a job.
UNFINISHED: tuple[State, ...] = ("failed", "lost", "interrupted", "cancelled", "pending")


def status(path: str, *, watch: bool, as_json: bool) -> int:
    """Print the state of every run; returns 1 where one has failed or is lost."""
    results = open_results(path)
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
        from hpcbench.cluster import show

        if watch:
            runs = _watch(results)
        show.console().print(show.status_view(results.path, runs))
    return 1 if any(run.state in BAD for run in runs) else 0


def _to_json(results: ResultsFolder, jobs: Jobs, runs: Sequence[RunStatus]) -> dict[str, object]:
    return {
        "results": str(results.path),
        "counts": counts(runs),
        "jobs": [
            {"job_id": job.job_id, "alive": job.alive(), "cancelled": job.cancelled, "runs": list(job.runs)}
            for job in jobs
        ],
        "runs": [run.to_json() for run in runs],
    }


def _watch(results: ResultsFolder) -> list[RunStatus]:
    """Show the table anew until nothing is running or queued any more."""
    from rich.live import Live

    from hpcbench.cluster import show

    before = runs = read_status(results)
    pause_s = WATCH_S
    with Live(console=show.console(stderr=True), auto_refresh=False, transient=True) as live:
        while any(run.queued or run.state == "running" for run in runs):
            live.update(show.status_view(results.path, runs), refresh=live.console.is_terminal)
            time.sleep(pause_s * random.uniform(0.8, 1.2))  # a scheduler is asked less and less often
            pause_s = min(SLOWEST_WATCH_S, pause_s * 1.2) if runs == before else WATCH_S
            before, runs = runs, read_status(results)
    return runs


def cancel(path: str) -> int:
    """End all jobs of a results folder."""
    results = open_results(path)
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
    from hpcbench.cluster import again
    from hpcbench.cluster.executor import OnThisMachine

    results = open_results(path)
    execution = again.like_the_last_time(results, shared=shared, presume_silent_dead=lost)
    states = [*(["failed"] if failed else []), *(["lost"] if lost else [])] or list(UNFINISHED)
    with interrupts.held_back() as interrupted, FileLock(results.submission_lock):
        runs = [run for run in read_status(results) if run.state in states and not run.queued]
        if not runs:
            print(f"hpcbench: no run of these results is {' or '.join(states)}", file=sys.stderr)
            return 0
        if isinstance(execution, OnThisMachine):
            _refuse_impossible(results, runs, catalog)
        in_order = sorted(runs, key=lambda run: (run.repeat, run.name))  # repeats stay interleaved
        if exclude_failed_nodes:
            execution = again.without_failed_nodes(execution, results, in_order)
        if more is not None:
            execution = again.with_more(execution, results, in_order, more)
        specs = [read_stored(results.run(run.name, run.repeat)).spec for run in in_order]
        execution.check(specs)
        job_ids = execution.start(results, specs)
    print(f"hpcbench: {len(runs)} runs again", file=sys.stderr)
    from hpcbench.cluster import wait

    detach = execution.detaches if detach is None else detach
    if detach and not interrupted:
        return wait.leave(results, job_ids)
    keys = [run.key for run in in_order]
    return wait.see_through(results, job_ids, keys, rank, interrupted=bool(interrupted))


def _refuse_impossible(results: ResultsFolder, runs: Sequence[RunStatus], catalog: Catalog) -> None:
    machine = this_machine()
    for run in runs:
        stored = read_stored(results.run(run.name, run.repeat))
        data = {stored.spec.dataset: stored.data} if stored.data else {}
        obstacle = why_not(stored.spec, machine, catalog, data)
        if obstacle:
            raise InputError(f"{run.key}: it can't run here: {obstacle}; nothing was started")


def clean(path: str) -> int:
    """Remove what no later command needs; records always stay."""
    results = open_results(path)
    runs = read_status(results)
    busy = [run for run in runs if run.state == "running" or run.queued]
    useless = _of_jobs(results)
    for run in runs:
        if run not in busy:
            useless += _of_run(results, run)
    freed = sum(_size(found) for found in useless)
    for found in useless:
        shutil.rmtree(found) if found.is_dir() else found.unlink(missing_ok=True)
    print(f"removed {len(useless)} files and folders, {freed / 1e6:.1f} MB")
    if busy:
        print(f"hpcbench: {len(busy)} runs are in a job: left alone", file=sys.stderr)
    return 0


def _of_jobs(results: ResultsFolder) -> list[Path]:
    living = {job.folder.path.name for job in read_jobs(results) if job.alive()}
    return [folder for folder in results.jobs.glob("*") if folder.is_dir() and folder.name not in living]


def _of_run(results: ResultsFolder, run: RunStatus) -> list[Path]:
    folder = results.run(run.name, run.repeat)
    older = folder.attempts()[:-1]
    logs = [log for attempt in older for log in folder.logs.glob(f"a{attempt}.*.log")]
    meetings = [folder.rendezvous(attempt) for attempt in older if folder.rendezvous(attempt).exists()]
    # A run that is not done may go on from its checkpoint.
    done = [folder.checkpoint] if run.state == "done" and folder.checkpoint.is_dir() else []
    return [*logs, *meetings, *done]


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
