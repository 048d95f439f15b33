"""`hpcbench submit` on a terminal: show the decisions, ask for confirmation, submit, wait with a progress
display, react to Ctrl-C.
"""

from __future__ import annotations

import json
import logging
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hpcbench.cli import terminal_tables
from hpcbench.errors import INTERRUPTED, HpcbenchError, InputError
from hpcbench.launch.admission import Action, Decision
from hpcbench.launch.slurm.slurm_client import SlurmSnapshot
from hpcbench.launch.submission import (
    Submission,
    SubmitRequest,
    describe_estimate,
    gpu_hours_at_most,
    load_submission,
    submit_pending,
)
from hpcbench.runs.jobs import LivingJobs, cancel_job, read_jobs
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.runs.run_status import RunStatus, read_status, run_status
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import RunSpec

logger = logging.getLogger(__name__)


@contextmanager
def deferred_interrupt() -> Iterator[list[int]]:
    """Keep Ctrl-C until the job is known, so that there is something to stop; gives what has come."""
    noted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """Let SIGTERM, as `timeout` sends it, do what Ctrl-C does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


ASK_ABOVE_GPU_HOURS = 100.0

# Collects and prints the ranked table.
ShowRanking = Callable[[ResultsFolder], None]


@dataclass(frozen=True, kw_only=True)
class SubmitOptions:
    """How a submission behaves on the terminal. `detach` None: as its executor does by default."""

    dry_run: bool = False
    json: bool = False
    yes: bool = False
    detach: bool | None = None


def submit(request: SubmitRequest, options: SubmitOptions, catalog: Catalog, rank: ShowRanking) -> int:
    """Submit what is not done and not queued; returns the exit status. `rank` prints the table at the end."""
    submission = load_submission(request, catalog)
    if options.dry_run:
        _print_decisions(submission.decisions, as_json=options.json)
        return 0
    jobs = submission.plan()
    _announce(submission)
    if not options.yes:
        if request.max_gpu_hours is None:
            confirm_gpu_hours(ASK_ABOVE_GPU_HOURS, submission.to_do)
        _confirm_replacing(submission.decisions)
    with deferred_interrupt() as interrupted:
        job_ids = submit_pending(submission, jobs)
    keys = [decision.key for decision in submission.decisions if decision.action is not Action.DONE]
    detach = submission.executor.detaches if options.detach is None else options.detach
    if detach and not interrupted:
        return print_job_ids(submission.results, job_ids)
    return wait_for_runs(submission.results, job_ids, keys, rank, interrupted=bool(interrupted))


def _print_decisions(decisions: Sequence[Decision], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([decision.to_json() for decision in decisions], indent=1))
    else:
        terminal_tables.console().print(terminal_tables.decisions_table(decisions))


def _announce(submission: Submission) -> None:
    """Say what will be done and what will not."""
    count = Counter(decision.action for decision in submission.decisions)
    skipped = [
        f"{count[action]} {words}"
        for action, words in ((Action.DONE, "done already"), (Action.BUSY, "in a job already"))
        if count[action]
    ]
    if skipped:
        logger.info("%d runs: %s", len(submission.decisions), ", ".join(skipped))
    if submission.to_do:
        logger.info("%s", describe_estimate(submission.decisions, submission.to_do, submission.catalog))


def confirm_gpu_hours(limit: float, to_do: Sequence[RunSpec]) -> None:
    """Ask before so many GPU-hours may be used; raises HpcbenchError for a no, or without a terminal."""
    needed = gpu_hours_at_most(to_do)
    if needed <= limit:
        return
    if not sys.stdin.isatty():
        raise InputError(
            f"these runs may use {needed:.0f} GPU-hours by their time limits: use --yes, or --max-gpu-hours N"
        )
    answer = input(f"Use up to {needed:.0f} GPU-hours? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise HpcbenchError("nothing was started")


def _confirm_replacing(decisions: Sequence[Decision]) -> None:
    conflicts = [decision for decision in decisions if decision.action is Action.CONFLICT]
    if not conflicts or not sys.stdin.isatty():
        return
    answer = input(f"Set aside the results of {len(conflicts)} runs and do them anew? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise HpcbenchError("nothing was started")


WAIT_POLL_S = 1.0
SLOWEST_POLL_S, POLL_GROWTH, JITTER = 30.0, 1.2, 0.2
# A job does its runs in order: no more than the first few that are not over can have changed. On a cluster
# jobs work side by side.
POLLED_RUNS, POLLED_RUNS_ON_CLUSTER = 8, 2000


class Backoff:
    """Pauses between two questions to a scheduler: longer and longer while nothing changes.

    They vary, so that not all who wait ask at the same moment.
    """

    def __init__(self, first_s: float) -> None:
        self._first_s = self._pause_s = first_s

    def sleep(self, *, changed: bool) -> None:
        """Pause; `changed` says whether the last answer was another one than before."""
        self._pause_s = self._first_s if changed else min(SLOWEST_POLL_S, self._pause_s * POLL_GROWTH)
        time.sleep(self._pause_s * random.uniform(1 - JITTER, 1 + JITTER))


class ProgressView(Protocol):
    """Shows what happens to runs."""

    def run_ended(self, run: RunStatus) -> None:
        """Show that a run is over."""

    def run_progress(self, run: RunStatus) -> None:
        """Show what happens now: how far a run is, or what the next one waits for."""


def print_job_ids(results: ResultsFolder, job_ids: Sequence[str]) -> int:
    """Print the ids of jobs that are not waited for; returns the exit status."""
    if not job_ids:
        logger.info("nothing to do")
        return 0
    for job_id in job_ids:
        print(f"job {job_id}")
    logger.info("submitted; look with: hpcbench status %s", results.path)
    return 0


def wait_for_runs(
    results: ResultsFolder,
    job_ids: Sequence[str],
    keys: Sequence[str],
    rank: ShowRanking,
    *,
    interrupted: bool = False,
) -> int:
    """Wait until the runs are over, and have them ranked; returns the exit status.

    Ctrl-C stops the job that was submitted here, and only that; jobs in a cluster's queue go on.
    """
    try:
        if interrupted:
            raise KeyboardInterrupt
        with sigterm_as_interrupt(), _progress_view(len(keys)) as view:
            _poll_runs(results, keys, view)
    except KeyboardInterrupt:
        return _stop_waiting(results, job_ids)
    runs = [run for run in read_status(results, SlurmSnapshot) if run.key in set(keys)]
    bad = [run for run in runs if run.state != "done"]
    if job_ids or bad:
        logger.info("%s", terminal_tables.count_summary(runs))
    if bad:
        logger.warning("see hpcbench status %s, then hpcbench retry", results.path)
    rank(results)
    return 1 if bad else 0


def _poll_runs(results: ResultsFolder, keys: Sequence[str], view: ProgressView) -> None:
    still_open, backoff = list(keys), Backoff(WAIT_POLL_S)
    while still_open:
        jobs = read_jobs(results, SlurmSnapshot)
        living = LivingJobs(jobs)
        on_cluster = any(job.scheduler for job in jobs)
        over, busy = [], []
        for key in still_open[: POLLED_RUNS_ON_CLUSTER if on_cluster else POLLED_RUNS]:
            name, _, repeat = key.rpartition("/r")
            run = run_status(name, int(repeat), results.run(name, int(repeat)), jobs, living)
            if run.state == "running" or run.queued:
                busy.append(run)
            else:
                view.run_ended(run)
                over.append(key)
        if busy:
            view.run_progress(next((run for run in busy if run.state == "running"), busy[0]))
        still_open = [key for key in still_open if key not in over]
        if on_cluster:
            backoff.sleep(changed=bool(over))
        elif not over:
            time.sleep(WAIT_POLL_S)


def _stop_waiting(results: ResultsFolder, job_ids: Sequence[str]) -> int:
    job = next((job for job in read_jobs(results, SlurmSnapshot) if job.job_id in job_ids), None)
    print(file=sys.stderr)  # the terminal has echoed ^C
    if job_ids and (job is None or job.scheduler):
        logger.info("no longer waiting; the jobs go on. To end them: hpcbench cancel %s", results.path)
    elif job is None:
        logger.info("no longer waiting; the runs belong to another job and go on")
    else:
        logger.info("stopping")
        cancel_job(results, job, signal.SIGINT)
        runs = [run for run in read_status(results, SlurmSnapshot) if run.key in job.runs]
        logger.info("%s. Submit again to go on", terminal_tables.count_summary(runs))
    return INTERRUPTED


@contextmanager
def _progress_view(total: int) -> Iterator[ProgressView]:
    console = terminal_tables.console(stderr=True)
    if not console.is_terminal:
        yield _LineView(total)
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
        yield _BarView(bar, total)


class _BarView:
    """A progress bar, with a line for each run that did not go well."""

    def __init__(self, bar: Progress, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task("waiting for the machine", total=total)

    def run_ended(self, run: RunStatus) -> None:
        self._bar.advance(self._task)
        if run.state != "done":
            self._bar.console.print(_describe_run(run), markup=False)

    def run_progress(self, run: RunStatus) -> None:
        now = terminal_tables.format_progress(run.progress) if run.state == "running" else run.reason
        self._bar.update(self._task, description=f"{run.key} {now}")


class _LineView:
    """One line a run, for logs and pipes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._over = 0

    def run_ended(self, run: RunStatus) -> None:
        self._over += 1
        print(f"{self._over}/{self._total} {_describe_run(run)}", file=sys.stderr, flush=True)

    def run_progress(self, run: RunStatus) -> None:
        """Say nothing: how far a run is would fill a log."""


def _describe_run(run: RunStatus) -> str:
    took = f" {run.wall_s:.1f} s" if run.wall_s is not None else ""
    why = f": {run.reason}" if run.reason and (run.state != "done" or run.limit) else ""
    lines = run.last_lines[-terminal_tables.SHOWN_LINES :] if run.state in ("failed", "lost") else []
    return "\n".join([f"{run.state} {run.key}{took}{why}", *(f"    {line}" for line in lines)])
