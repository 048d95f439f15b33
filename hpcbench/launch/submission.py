"""From sweep files to submitted jobs: loading the sweep, estimating time and disk, refusing conflicts, and
handing the runs to an executor.
"""

from __future__ import annotations

import logging
import math
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean

from filelock import FileLock

from hpcbench.errors import InputError
from hpcbench.launch.admission import Action, Decision, decide, devices_sharing_cores
from hpcbench.launch.executors import Executor, ExecutorChoice, LocalExecutor, PlannedJobs, choose_executor
from hpcbench.launch.machine_resources import Machine, this_machine
from hpcbench.launch.slurm.slurm_profile import Profile, find_profile
from hpcbench.launch.slurm.slurm_submission import SlurmExecutor
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import KEPT_CHECKPOINTS, ResultsFolder, StoredRun
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.data_location import ROOT_VARIABLE
from hpcbench.sweep.run_spec import RunSpec, Sweep
from hpcbench.sweep.sweep_loading import dump_sweep, load_sweep

logger = logging.getLogger(__name__)

MAX_LISTED = 5


@dataclass(frozen=True, kw_only=True)
class SubmitRequest:
    """What the command line asks for."""

    files: Sequence[Path]
    results: Path
    executor: str | None = None
    data: str | None = None
    only: Sequence[str] = ()
    settings: Sequence[str] = ()
    smoke: bool = False
    shared: bool = False
    force: bool = False
    max_gpu_hours: float | None = None
    profile: str | None = None
    pack: bool | int | None = None
    max_parallel: int | None = None
    collect: bool = False


@dataclass(frozen=True, kw_only=True)
class Submission:
    """A sweep, where it goes, and what happens to each of its runs.

    `all_runs` is the whole sweep where `--only` takes a part, `machine` is None where runs go to the nodes of
    a cluster. `ledger_bytes` is how long the ledger was before the decisions: they hold until it has grown.
    """

    sweep: Sweep
    all_runs: Sweep
    results: ResultsFolder
    executor: Executor
    machine: Machine | None
    catalog: Catalog
    force: bool
    max_gpu_hours: float | None
    ledger_bytes: int = 0
    decisions: tuple[Decision, ...] = ()

    @property
    def to_do(self) -> list[RunSpec]:
        """The runs that are handed to the executor."""
        return [found.spec for found in self.decisions if found.action in (Action.RUN, Action.CONFLICT)]

    def decided(self) -> Submission:
        """Decide for each run."""
        ledger_bytes = _file_bytes(self.results.ledger)
        decisions = decide(self.sweep.runs, self.sweep.data, self.results, self.machine, self.catalog)
        return replace(self, ledger_bytes=ledger_bytes, decisions=tuple(decisions))

    def plan(self) -> PlannedJobs | None:
        """Return the jobs of what is to do, if anything is; raises InputError where it can't be done."""
        refuse_conflicts(self.decisions, force=self.force)
        refuse_gpu_hours_above(self.max_gpu_hours, self.to_do)
        return self.executor.plan(self.to_do) if self.to_do else None


def _file_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def load_submission(request: SubmitRequest, catalog: Catalog) -> Submission:
    """Return what a request asks for, decided run by run; nothing is written."""
    machine = this_machine()
    local = choose_executor(request.executor, machine) is ExecutorChoice.LOCAL
    profile = find_profile(request.profile, request.files)
    gpus = len(machine.gpus) if local else profile.gpus_per_node or 0
    sweep, all_runs = _load_sweep(request, catalog, profile, gpus=gpus)
    return Submission(
        sweep=sweep,
        all_runs=all_runs,
        results=ResultsFolder((request.results / sweep.name).absolute()),
        executor=LocalExecutor(shared=request.shared) if local else _slurm_executor(request, profile, sweep),
        machine=machine if local else None,
        catalog=catalog,
        force=request.force,
        max_gpu_hours=request.max_gpu_hours,
    ).decided()


def _slurm_executor(request: SubmitRequest, profile: Profile, sweep: Sweep) -> SlurmExecutor:
    return SlurmExecutor(
        profile=profile,
        pack=sweep.pack if request.pack is None else request.pack,
        parallel=request.max_parallel,
        collect=request.collect,
    )


def _load_sweep(
    request: SubmitRequest, catalog: Catalog, profile: Profile, *, gpus: int
) -> tuple[Sweep, Sweep]:
    """Return the sweep that is asked for, and the whole of it where `--only` takes a part."""
    root = request.data or os.environ.get(ROOT_VARIABLE)
    if root is None and isinstance(profile.data, str):
        root = profile.data

    def load(only: Sequence[str]) -> Sweep:
        sweep = load_sweep(
            request.files,
            catalog,
            settings=request.settings,
            only=only,
            default_gpus_per_node=gpus,
            data_root=root,
            smoke=request.smoke,
        )
        return _apply_profile(sweep, profile, own_data=root is not None)

    sweep = load(request.only)
    if not request.only:
        return sweep, sweep
    try:
        return sweep, load(())
    except InputError:
        return sweep, sweep  # what is wrong with the other runs, such as absent data, is not asked for


def _apply_profile(sweep: Sweep, profile: Profile, *, own_data: bool) -> Sweep:
    """Complete a sweep by the profile of the site: where data are, and the image."""
    if isinstance(profile.data, dict) and not own_data:
        sweep = replace(sweep, data={**sweep.data, **profile.data})
    if profile.container.runtime == "none" or sweep.smoke_gpus is not None:
        return sweep
    inside = (
        replace(spec, container=profile.container) if spec.container.runtime == "none" else spec
        for spec in sweep.runs
    )
    return replace(sweep, runs=tuple(inside))


def refuse_conflicts(decisions: Sequence[Decision], *, force: bool) -> None:
    """Raise InputError where runs cannot be executed, or would replace other results."""
    impossible = [decision for decision in decisions if decision.action is Action.IMPOSSIBLE]
    if impossible:
        raise InputError(
            f"{_list_decisions(impossible)}. Leave them out with --only, or see --dry-run; "
            "nothing was started"
        )
    conflicts = [decision for decision in decisions if decision.action is Action.CONFLICT]
    busy = [
        conflict
        for conflict in conflicts
        if conflict.status and (conflict.status.state == "running" or conflict.status.queued)
    ]
    if busy and force:
        raise InputError(
            f"{_list_decisions(busy)}. It is still in a job: --force does not take it away; cancel it first"
        )
    if conflicts and not force:
        raise InputError(
            f"other runs of the same name have results there: {_list_decisions(conflicts)}. Use another "
            "--results, another name, or --force, which sets the old results aside; nothing was started"
        )


def _list_decisions(decisions: Sequence[Decision]) -> str:
    named = "; ".join(f"{decision.key}: {decision.reason}" for decision in decisions[:MAX_LISTED])
    more = len(decisions) - MAX_LISTED
    return f"{named}; and {more} more" if more > 0 else named


def submit_pending(submission: Submission, jobs: PlannedJobs | None) -> list[str]:
    """Start the planned jobs while no other submitter is at work; returns their ids.

    Where another one was since the runs were decided, they are decided and planned again.
    """
    results, all_runs = submission.results, submission.all_runs
    results.path.mkdir(parents=True, exist_ok=True)
    with FileLock(results.submission_lock):
        if _file_bytes(results.ledger) != submission.ledger_bytes:
            submission = submission.decided()
            jobs = submission.plan()
        for decision in submission.decisions:
            if decision.action is Action.CONFLICT:
                _set_aside_results(results, decision)
        text = dump_sweep(all_runs)
        if not results.sweep.exists() or results.sweep.read_text(encoding="utf-8") != text:
            write_atomically(results.sweep, text)
        if jobs is None:
            return []
        shares = devices_sharing_cores(all_runs.runs)
        for spec in submission.to_do:
            stored = StoredRun(
                spec=spec,
                declared=submission.sweep.declared.get(spec.run_id),
                data=submission.sweep.data.get(spec.dataset),
                cores_shared_by=shares[spec.device],
            )
            stored.write(results.run(spec.name, spec.repeat))
        return jobs.start(results)


def _set_aside_results(results: ResultsFolder, conflict: Decision) -> None:
    """Keep the results that `--force` replaces, where no ranking finds them."""
    assert conflict.status is not None
    name, repeat = conflict.spec.name, conflict.spec.repeat
    kept = results.replaced(name, repeat, conflict.status.run_id)
    while kept.exists():  # the same two runs have replaced each other before
        kept = kept.with_name(f"{kept.name}.again")
    kept.parent.mkdir(parents=True, exist_ok=True)
    results.run(name, repeat).path.rename(kept)
    logger.info("%s: its earlier results are now in %s", conflict.key, kept)


def format_duration(seconds: float) -> str:
    """Write a duration in the unit that suits it."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


# Bytes of JSON lines and of logs as runs write them, rounded up; a test compares them with real runs.
RUN_BYTES = 16_000  # specification, claim, rendezvous, log
PROCESS_BYTES = 6_000  # its first record and its last, its log
EPOCH_BYTES = 1_200  # the epoch, its evaluation, its checks
WINDOW_BYTES = 1_000
CHECKPOINT_HEAD_BYTES = 64_000  # names, shapes, the state of random numbers

FLOAT_BYTES = {"fp64": 8}
BYTE_UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def disk_bytes(spec: RunSpec, catalog: Catalog) -> int:
    """Return the bytes that a run leaves at most: records, checkpoints that may be due, weights to be saved.

    What can't be counted from here, the steps of a data set whose size only its files tell, counts nothing.
    """
    return _record_bytes(spec, catalog) + _checkpoint_bytes(spec, catalog)


def _record_bytes(spec: RunSpec, catalog: Catalog) -> int:
    samples = catalog.datasets[spec.dataset].train_samples or spec.dataset_options.get("samples")
    per_epoch = max(1, samples // spec.samples_per_step) if samples else None
    steps = spec.steps or (per_epoch or 0) * (spec.epochs or 0)
    epochs = spec.epochs or (math.ceil(steps / per_epoch) if per_epoch else 0)
    # An epoch's end cuts a window short, and warm-up has windows of its own.
    windows = math.ceil(steps / spec.window_steps) + epochs + 2
    process_bytes = PROCESS_BYTES + epochs * EPOCH_BYTES + windows * WINDOW_BYTES
    return RUN_BYTES + spec.processes * process_bytes


def _checkpoint_bytes(spec: RunSpec, catalog: Catalog) -> int:
    """Count whole models. Every rank keeps what it holds; for sharded strategies this is too much."""
    if not catalog.strategies[spec.strategy].trains:
        return 0
    model = catalog.models[spec.model].parameters * FLOAT_BYTES.get(spec.precision, 4)
    kept = 0 if spec.checkpoint == "none" else KEPT_CHECKPOINTS * spec.processes
    with_momentum = 2 if spec.optimizer.momentum else 1
    return kept * (with_momentum * model + CHECKPOINT_HEAD_BYTES) + spec.save_weights * model


def format_bytes(size_bytes: int) -> str:
    """Write a number of bytes as people do, such as `1.2 GB`."""
    power = min(int(math.log(max(size_bytes, 1), 1000)), len(BYTE_UNITS) - 1)
    return f"{size_bytes / 1000**power:.3g} {BYTE_UNITS[power]}"


# Of each process: its record and its log. Of each run: spec, claim, rendezvous.
FILES_PER_PROCESS = 2
FILES_PER_RUN = 3


def describe_estimate(decisions: Sequence[Decision], to_do: Sequence[RunSpec], catalog: Catalog) -> str:
    """Return one line: number of runs, time by their limits and by earlier records, disk and files."""
    names = {spec.name for spec in to_do}
    longest_s = sum(spec.resources.time_s for spec in to_do)
    gpu_hours = gpu_hours_at_most(to_do)
    gpus = f", at most {gpu_hours:.1f} GPU-hours" if gpu_hours else ""
    disk = format_bytes(sum(disk_bytes(spec, catalog) for spec in to_do))
    files = sum(FILES_PER_RUN + FILES_PER_PROCESS * spec.processes for spec in to_do)
    return (
        f"to do: {len(names)} runs, {len(to_do)} with their repeats, at most {format_duration(longest_s)} by "
        f"limits{gpus}, {_expected_duration(decisions, to_do)}, at most about {disk} in {files} files"
    )


def gpu_hours_at_most(to_do: Sequence[RunSpec]) -> float:
    """Return the GPU-hours if every run used up its time limit: all GPUs of its nodes are its own."""
    return sum(
        spec.resources.time_s / 3600 * spec.resources.nodes * spec.resources.gpus_per_node
        for spec in to_do
        if spec.device == "cuda"
    )


def refuse_gpu_hours_above(limit: float | None, to_do: Sequence[RunSpec]) -> None:
    """Raise InputError where the runs could use more GPU-hours than `--max-gpu-hours` allows."""
    needed = gpu_hours_at_most(to_do)
    if limit is not None and needed > limit:
        raise InputError(
            f"--max-gpu-hours {limit:g}: these runs may use {needed:.1f} GPU-hours by their time limits. "
            "Lower resources.time, pick runs with --only, or raise the limit"
        )


def _expected_duration(decisions: Sequence[Decision], to_do: Sequence[RunSpec]) -> str:
    """Project from the repeats that are done, and from earlier runs of the same name."""
    seconds = defaultdict(list)
    for decision in decisions:
        if decision.action is Action.DONE and decision.status and decision.status.wall_s:
            seconds[decision.spec.name].append(decision.status.wall_s)
    known = [mean(seconds[spec.name]) for spec in to_do if spec.name in seconds]
    if not known:
        return "no earlier records to tell how long"
    missing = len(to_do) - len(known)
    rest = f" for {len(known)} of them" if missing else ""
    return f"about {format_duration(sum(known))}{rest} by earlier records"
