"""`hpcbench submit` on a terminal: show the decisions, ask for confirmation, submit, wait with a progress
display, react to Ctrl-C.
"""

from __future__ import annotations

import json
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from hpcbench.cli import terminal_tables
from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.admission import Action, Decision, decide
from hpcbench.launch.executors import Executor, ExecutorChoice, choose_executor
from hpcbench.launch.jobs import LivingJobs, cancel_job, read_jobs
from hpcbench.launch.machine_resources import this_machine
from hpcbench.launch.run_status import RunStatus, read_status, run_status
from hpcbench.launch.slurm.slurm_profile import find_profile
from hpcbench.launch.submission import (
    SubmitRequest,
    describe_estimate,
    gpu_hours_at_most,
    load_requested_sweep,
    print_notice,
    refuse_conflicts,
    refuse_gpu_hours_above,
    requested_executor,
    submit_pending,
)
from hpcbench.runs.results_folder import ResultsFolder
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import RunSpec


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


def submit(request: SubmitRequest, catalog: Catalog, rank: Callable[[ResultsFolder], None]) -> int:
    """Submit what is not done and not queued; returns the exit status. `rank` prints the table at the end."""
    machine = this_machine()
    where = choose_executor(request.executor, machine)
    profile = find_profile(request.profile, request.files)
    gpus = len(machine.gpus) if where is ExecutorChoice.LOCAL else profile.gpus_per_node or 0
    sweep, whole = load_requested_sweep(request, catalog, profile, gpus=gpus)
    results = ResultsFolder((request.results / sweep.name).absolute())
    execution = requested_executor(where, request, profile, sweep)

    def decisions_now() -> list[Decision]:
        nodes = machine if where is ExecutorChoice.LOCAL else None
        return decide(sweep.runs, sweep.data, results, nodes, catalog)

    decisions = decisions_now()
    if request.dry_run:
        _print_decisions(decisions, as_json=request.json)
        return 0
    refuse_conflicts(decisions, force=request.force)
    _check_and_announce(decisions, request, execution, catalog)
    if request.force and not request.yes:
        _confirm_replacing(decisions)
    with deferred_interrupt() as interrupted:
        job_ids = submit_pending(request, sweep, whole, results, decisions_now, execution)
    keys = [decision.key for decision in decisions if decision.action is not Action.DONE]
    detach = execution.detaches if request.detach is None else request.detach
    if detach and not interrupted:
        return print_job_ids(results, job_ids)
    return wait_for_runs(results, job_ids, keys, rank, interrupted=bool(interrupted))


def _print_decisions(decisions: Sequence[Decision], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps([decision.to_json() for decision in decisions], indent=1))
        return
    from hpcbench.cli import terminal_tables

    terminal_tables.console().print(terminal_tables.decisions_table(decisions))


def _check_and_announce(
    decisions: Sequence[Decision], request: SubmitRequest, execution: Executor, catalog: Catalog
) -> None:
    to_do = [each.spec for each in decisions if each.action in (Action.RUN, Action.CONFLICT)]
    refuse_gpu_hours_above(request.max_gpu_hours, to_do)
    if to_do:
        execution.check(to_do)
    done = sum(each.action is Action.DONE for each in decisions)
    busy = [each for each in decisions if each.action is Action.BUSY]
    left_out = [f"{done} done already"] * bool(done) + [f"{len(busy)} in a job already"] * bool(busy)
    if left_out:
        print_notice(f"{len(decisions)} runs: {', '.join(left_out)}")
    if to_do:
        print_notice(describe_estimate(decisions, to_do, catalog))
        if request.max_gpu_hours is None and not request.yes:
            confirm_gpu_hours(ASK_ABOVE_GPU_HOURS, to_do)


def confirm_gpu_hours(limit: float, to_do: Sequence[RunSpec]) -> None:
    """Ask before so many GPU-hours may be used; raises HpcbenchError without somebody to ask, or for a no."""
    needed = gpu_hours_at_most(to_do)
    if needed <= limit:
        return
    if not sys.stdin.isatty():
        raise InputError(
            f"these runs may use {needed:.0f} GPU-hours by their time limits: say --yes, or --max-gpu-hours N"
        )
    answer = input(f"Use up to {needed:.0f} GPU-hours? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise HpcbenchError("nothing was started")


def _confirm_replacing(decisions: Sequence[Decision]) -> None:
    conflicts = [each for each in decisions if each.action is Action.CONFLICT]
    if not conflicts or not sys.stdin.isatty():
        return
    answer = input(f"Set aside the results of {len(conflicts)} runs and do them anew? [y/N] ")
    if answer.strip().lower() not in ("y", "yes"):
        raise HpcbenchError("nothing was started")


# Collects and prints the ranked table: the report stands beside this package, not below it.
ShowRanking = Callable[[ResultsFolder], None]

INTERRUPTED = 128 + signal.SIGINT
POLL_S = 1.0
# A scheduler is asked less and less often, and not by all who wait at the same moment.
SLOWEST_POLL_S, POLL_GROWTH, JITTER = 30.0, 1.2, 0.2
# A job does its runs in order: no more than the first few that are not over can have changed. On a cluster
# jobs work side by side.
POLLED_RUNS, POLLED_RUNS_ON_CLUSTER = 8, 2000


class ProgressView(Protocol):
    """Where news about runs goes."""

    def over(self, run: RunStatus) -> None:
        """Show that a run is over."""

    def doing(self, run: RunStatus) -> None:
        """Show what happens now: how far a run is, or what the next one waits for."""


def print_job_ids(results: ResultsFolder, job_ids: Sequence[str]) -> int:
    """Say where to look, and do not wait."""
    if not job_ids:
        print("hpcbench: nothing to do", file=sys.stderr)
        return 0
    for job_id in job_ids:
        print(f"job {job_id}")
    print(f"hpcbench: submitted; look with: hpcbench status {results.path}", file=sys.stderr)
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
    runs = [run for run in read_status(results) if run.key in set(keys)]
    bad = [run for run in runs if run.state != "done"]
    if job_ids or bad:
        print(f"hpcbench: {terminal_tables.count_summary(runs)}", file=sys.stderr)
    if bad:
        print(f"hpcbench: see hpcbench status {results.path}, then hpcbench retry", file=sys.stderr)
    rank(results)
    return 1 if bad else 0


def _poll_runs(results: ResultsFolder, keys: Sequence[str], view: ProgressView) -> None:
    still_open, pause_s = list(keys), POLL_S
    while still_open:
        jobs = read_jobs(results)
        living = LivingJobs(jobs)
        on_cluster = any(job.slurm for job in jobs)
        over, busy = [], []
        for key in still_open[: POLLED_RUNS_ON_CLUSTER if on_cluster else POLLED_RUNS]:
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
            pause_s = POLL_S if over else min(SLOWEST_POLL_S, pause_s * POLL_GROWTH)
            time.sleep(pause_s * random.uniform(1 - JITTER, 1 + JITTER))
        elif not over:
            time.sleep(POLL_S)


def _stop_waiting(results: ResultsFolder, job_ids: Sequence[str]) -> int:
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
    print(f"hpcbench: {terminal_tables.count_summary(runs)}. Submit again to go on", file=sys.stderr)
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

    def over(self, run: RunStatus) -> None:
        self._bar.advance(self._task)
        if run.state != "done":
            self._bar.console.print(_describe_run(run), markup=False)

    def doing(self, run: RunStatus) -> None:
        now = terminal_tables.format_progress(run.progress) if run.state == "running" else run.reason
        self._bar.update(self._task, description=f"{run.key} {now}")


class _LineView:
    """One line a run, for logs and pipes."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._over = 0

    def over(self, run: RunStatus) -> None:
        self._over += 1
        print(f"{self._over}/{self._total} {_describe_run(run)}", file=sys.stderr, flush=True)

    def doing(self, run: RunStatus) -> None:
        """Say nothing: how far a run is would fill a log."""


def _describe_run(run: RunStatus) -> str:
    took = f" {run.wall_s:.1f} s" if run.wall_s is not None else ""
    why = f": {run.reason}" if run.reason and (run.state != "done" or run.limit) else ""
    lines = run.last_lines[-terminal_tables.SHOWN_LINES :] if run.state in ("failed", "lost") else []
    return "\n".join([f"{run.state} {run.key}{took}{why}", *(f"    {line}" for line in lines)])
