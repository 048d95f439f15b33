"""Waiting for runs: what is shown meanwhile, what Ctrl-C does, and what is said at the end."""

from __future__ import annotations

import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hpcbench.cluster import interrupts, show
from hpcbench.cluster.jobs import Living, cancel_job, read_jobs
from hpcbench.cluster.status import RunStatus, read_status, run_status
from hpcbench.records.layout import ResultsFolder

# Collects and prints the ranked table: the report stands beside this package, not below it.
Rank = Callable[[ResultsFolder], None]

INTERRUPTED = 128 + signal.SIGINT
POLL_S = 1.0
# A scheduler is asked less and less often, and not by all who wait at the same moment.
SLOWEST_POLL_S, SLOWER_BY, JITTER = 30.0, 1.2, 0.2
# A job does its runs in order: no more than the first few that are not over can have changed. On a cluster
# jobs work side by side.
LOOKED_AT, LOOKED_AT_ON_CLUSTER = 8, 2000


class View(Protocol):
    """Where news about runs goes."""

    def over(self, run: RunStatus) -> None:
        """Show that a run is over."""

    def doing(self, run: RunStatus) -> None:
        """Show what happens now: how far a run is, or what the next one waits for."""


def leave(results: ResultsFolder, job_ids: Sequence[str]) -> int:
    """Say where to look, and do not wait."""
    if not job_ids:
        print("hpcbench: nothing to do", file=sys.stderr)
        return 0
    for job_id in job_ids:
        print(f"job {job_id}")
    print(f"hpcbench: submitted; look with: hpcbench status {results.path}", file=sys.stderr)
    return 0


def see_through(
    results: ResultsFolder,
    job_ids: Sequence[str],
    keys: Sequence[str],
    rank: Rank,
    *,
    interrupted: bool = False,
) -> int:
    """Wait until the runs are over, and have them ranked; returns the exit status.

    Ctrl-C stops the job that was submitted here, and only that; jobs in a cluster's queue go on.
    """
    try:
        if interrupted:
            raise KeyboardInterrupt
        with interrupts.terminated_like_interrupted(), _view(len(keys)) as view:
            _watch(results, keys, view)
    except KeyboardInterrupt:
        return _stop(results, job_ids)
    runs = [run for run in read_status(results) if run.key in set(keys)]
    bad = [run for run in runs if run.state != "done"]
    if job_ids or bad:
        print(f"hpcbench: {show.summary(runs)}", file=sys.stderr)
    if bad:
        print(f"hpcbench: see hpcbench status {results.path}, then hpcbench retry", file=sys.stderr)
    rank(results)
    return 1 if bad else 0


def _watch(results: ResultsFolder, keys: Sequence[str], view: View) -> None:
    still_open, pause_s = list(keys), POLL_S
    while still_open:
        jobs = read_jobs(results)
        living = Living(jobs)
        on_cluster = any(job.slurm for job in jobs)
        over, busy = [], []
        for key in still_open[: LOOKED_AT_ON_CLUSTER if on_cluster else LOOKED_AT]:
            name, _, repeat = key.rpartition("/r")
            run = run_status(name, int(repeat), results.run(name, int(repeat)), jobs, living)
            if run.state == "running" or run.queued:
                busy.append(run)
            else:
                view.over(run)
                over.append(key)
        if busy:
            view.doing(next((run for run in busy if run.state == "running"), busy[0]))
        still_open = [key for key in still_open if key not in over]
        if on_cluster:
            pause_s = POLL_S if over else min(SLOWEST_POLL_S, pause_s * SLOWER_BY)
            time.sleep(pause_s * random.uniform(1 - JITTER, 1 + JITTER))
        elif not over:
            time.sleep(POLL_S)


def _stop(results: ResultsFolder, job_ids: Sequence[str]) -> int:
    job = next((job for job in read_jobs(results) if job.job_id in job_ids), None)
    if job_ids and (job is None or job.slurm):
        print(f"\nhpcbench: no longer waiting; the jobs go on. To end them: hpcbench cancel {results.path}")
        return INTERRUPTED
    if job is None:
        print("\nhpcbench: no longer waiting; the runs belong to another job and go on", file=sys.stderr)
        return INTERRUPTED
    print("\nhpcbench: stopping", file=sys.stderr)
    cancel_job(results, job, signal.SIGINT)
    runs = [run for run in read_status(results) if run.key in job.runs]
    print(f"hpcbench: {show.summary(runs)}. Submit again to go on", file=sys.stderr)
    return INTERRUPTED


@contextmanager
def _view(total: int) -> Iterator[View]:
    console = show.console(stderr=True)
    if not console.is_terminal:
        yield _Lines(total)
        return
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}", markup=False),
        console=console,
        transient=True,
        # The ranks are measured on the same cores: draw seldom.
        refresh_per_second=2,
    )
    with bar:
        yield _Bar(bar, total)


class _Bar:
    """A progress bar, with a line for each run that did not go well."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("waiting for the machine", total=total)

    def over(self, run: RunStatus) -> None:
        self._bar.advance(self._task)
        if run.state != "done":
            self._bar.console.print(_sentence(run), markup=False)

    def doing(self, run: RunStatus) -> None:
        now = show.how_far(run.progress) if run.state == "running" else run.reason
        self._bar.update(self._task, description=f"{run.key} {now}")


class _Lines:
    """One line a run, for logs and pipes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._over = 0

    def over(self, run: RunStatus) -> None:
        self._over += 1
        print(f"{self._over}/{self._total} {_sentence(run)}", file=sys.stderr, flush=True)

    def doing(self, run: RunStatus) -> None:
        """Say nothing: how far a run is would fill a log."""


def _sentence(run: RunStatus) -> str:
    took = f" {run.wall_s:.1f} s" if run.wall_s is not None else ""
    why = f": {run.reason}" if run.reason and (run.state != "done" or run.limit) else ""
    lines = run.last_lines[-show.SHOWN_LINES :] if run.state in ("failed", "lost") else []
    return "\n".join([f"{run.state} {run.key}{took}{why}", *(f"    {line}" for line in lines)])


def report_is_current(results: ResultsFolder) -> bool:
    """Return whether nothing has happened since the report was written."""
    ranking = results.report / "ranking.csv"
    return ranking.exists() and _newest_record_ns(results) < ranking.stat().st_mtime_ns


def _newest_record_ns(results: ResultsFolder) -> int:
    files = [results.sweep, results.ledger]
    for _, _, folder in results.runs():
        files += [folder.claim(attempt) for attempt in folder.attempts()[-1:]]
        files += [file.path for file in folder.event_files()]
    return max((path.stat().st_mtime_ns for path in files if path.exists()), default=0)
