"""Starts probes: before the first run of a job, and for `hpcbench probe`. A failed probe fails no run."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hpcbench.ceilings.ceiling_records import MeasuredCeiling, append_ceiling_lines, read_ceilings
from hpcbench.ceilings.probe_plan import (
    PlannedProbe,
    collect_ceilings,
    has_ceilings,
    measured_ceiling_lines,
    plan_probes,
    runs_without_ceilings,
)
from hpcbench.errors import HpcbenchError, InputError
from hpcbench.launch.admission import devices_sharing_cores, obstacle_to_run, threads_per_rank
from hpcbench.launch.job_execution import rank_runtime
from hpcbench.launch.machine_resources import Machine
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.supervisor import Assignment, supervise
from hpcbench.runs.claim import AlreadyClaimedError, Claim, Ending, claim_next
from hpcbench.runs.ledger import JobPlan, new_job_id
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from hpcbench.runs.spec_file import StoredRun
from hpcbench.sweep.catalog_entries import Catalog, ProcessLayout
from hpcbench.sweep.data_location import ROOT_VARIABLE, locate_data
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.sweep_loading import load_run, load_sweep

logger = logging.getLogger(__name__)


class ProbingJob(Protocol):
    """The job before whose first run is probed, and what it does for a probe."""

    @property
    def plan(self) -> JobPlan:
        """Its runs, and whether it has its nodes for itself."""

    @property
    def job_id(self) -> str:
        """How the ledger names it."""

    def stopped(self) -> bool:
        """Return whether nothing more is to be begun."""

    def claim(self, folder: RunFolder, spec: RunSpec) -> Claim:
        """Claim the next attempt in a folder; raises AlreadyClaimedError."""

    def supervise(self, stored: StoredRun, claim: Claim) -> Ending:
        """Do a claimed attempt with the job's cores, devices and nodes."""


def measure_before_first_run(work: ProbingJob, runs: Sequence[tuple[str, int]]) -> None:
    """Measure what this node can do at most, as far as the results do not tell yet."""
    if work.plan.shared or work.plan.array:
        return  # somebody else may be at work: what is measured then is no ceiling
    results = ResultsFolder(Path(work.plan.results))
    try:
        wanted = runs_without_ceilings(results, runs)
    except (HpcbenchError, OSError) as error:
        logger.warning("ceilings not measured: %s", error)
        return
    if not wanted:
        return
    told = results.job(work.job_id).probing
    try:
        told.touch()
        for number, probe in enumerate(plan_probes(wanted)):
            if work.stopped():
                return
            _measure_for_job(work, probe, RunFolder(results.ceilings / f"{work.job_id}.{number}"))
    except OSError as error:
        logger.warning("ceilings not measured: %s", error)
    finally:
        told.unlink(missing_ok=True)


def _measure_for_job(work: ProbingJob, probe: PlannedProbe, folder: RunFolder) -> None:
    """Do a probe, and put what it has measured where the results have it."""
    began = time.monotonic()
    try:
        ending = _run_probe(work, probe, folder)
        lines = collect_ceilings(folder, ResultsFolder(Path(work.plan.results)))
    except (HpcbenchError, OSError) as error:
        logger.warning("ceilings not measured: %s", error)
        return
    reason = "" if ending.state == "finished" else f", not all: {ending.reason}; {folder.logs} tells more"
    logger.info(
        f"ceilings of {len(probe.specs)} recipes: {lines} after {time.monotonic() - began:.1f} s{reason}"
    )
    if ending.state == "finished":
        shutil.rmtree(folder.path, ignore_errors=True)


def _run_probe(work: ProbingJob, probe: PlannedProbe, folder: RunFolder) -> Ending:
    probe.write(folder)
    try:
        claim = work.claim(folder, probe.stored.spec)
    except AlreadyClaimedError as error:
        return Ending(state="failed", reason=str(error))
    return work.supervise(probe.stored, claim)


logger = logging.getLogger(__name__)

# Of a run that says nothing: what most runs of a node are, on a CPU with as many ranks as most machines bear.
DEFAULT_STRATEGY = "ddp"
DEFAULT_MAX_RANKS = 4


@dataclass(frozen=True, kw_only=True)
class ProbeRequest:
    """What the command line asks for."""

    sweep: Path | None
    settings: tuple[str, ...]
    results: Path
    out: Path | None
    data: str | None
    json: bool


def runs_to_probe(
    wanted: ProbeRequest, catalog: Catalog, machine: Machine
) -> tuple[list[StoredRun], ResultsFolder | None]:
    """Return the runs whose ceilings are asked for, and their results folder where there is one."""
    gpus = len(machine.gpus)
    if wanted.sweep is None:
        settings = [*_default_settings(machine, wanted.settings, catalog), *wanted.settings]
        spec = load_run(None, catalog, settings=settings, default_gpus_per_node=gpus)
        data = locate_data([], [spec.dataset], catalog, wanted.data, smoke=False)
        return _as_stored_runs([spec], data), None
    root = wanted.data or os.environ.get(ROOT_VARIABLE)
    sweep = load_sweep(
        [wanted.sweep],
        catalog,
        settings=wanted.settings,
        default_gpus_per_node=gpus,
        data_root=root,
    )
    return _as_stored_runs(sweep.runs, sweep.data), ResultsFolder((wanted.results / sweep.name).absolute())


def _default_settings(machine: Machine, settings: Sequence[str], catalog: Catalog) -> list[str]:
    """Return what a run is that nothing is said of. A strategy of one process has no ranks to be said."""
    said = [each.removeprefix("strategy=") for each in settings if each.startswith("strategy=")]
    strategy = [] if said else [f"strategy={DEFAULT_STRATEGY}"]
    entry = catalog.strategies.get(said[-1]) if said else None
    if entry and entry.processes in (ProcessLayout.ONE, ProcessLayout.ONE_MANY_DEVICES):
        return strategy
    ranks = len(machine.gpus) or min(DEFAULT_MAX_RANKS, machine.cores)
    return [*strategy, f"ranks={ranks}"]


def _as_stored_runs(specs: Sequence[RunSpec], data: dict[str, str]) -> list[StoredRun]:
    shares = devices_sharing_cores(specs)
    return [
        StoredRun(spec=spec, data=data.get(spec.dataset), cores_shared_by=shares[spec.device])
        for spec in specs
    ]


def keep_possible_runs(stored: Sequence[StoredRun], machine: Machine, catalog: Catalog) -> list[StoredRun]:
    """Leave out what can't run here, and say so once for each reason; InputError where nothing is left."""
    obstacles: dict[str, str] = {}
    possible = []
    for each in stored:
        spec = each.spec
        obstacle = (
            obstacle_to_run(spec, machine, catalog, {spec.dataset: each.data} if each.data else {})
            if has_ceilings(spec)
            else f"{spec.strategy} trains nothing"
        )
        if obstacle is None:
            possible.append(each)
        else:
            obstacles.setdefault(obstacle, spec.name)
    named = "; ".join(f"{name}: {obstacle}" for obstacle, name in obstacles.items())
    if not possible:
        raise InputError(f"nothing to measure here: {named}")
    if named:
        logger.info("left out: %s", named)
    return possible


def measure_in_scratch_folder(
    each: PlannedProbe,
    machine: Machine,
    inbox: SupervisorInbox,
    out: Path | None,
    results: ResultsFolder | None,
) -> tuple[Ending, list[MeasuredCeiling]]:
    """Do a probe in a folder that is gone afterwards; returns how it ended and what it has found."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpcbench-probe-")))
        folder = RunFolder(scratch)
        each.write(folder)
        spec = each.stored.spec
        task = Assignment(
            spec=spec,
            claim=claim_next(folder, spec, f"probe-{new_job_id()}"),
            threads=threads_per_rank(machine, each.stored.cores_shared_by),
            data=each.stored.data,
            warnings=[],
            environment=dict(os.environ),
            runtime=rank_runtime(each.stored, folder, os.environ),
        )
        ending = supervise(task, inbox)
        records = [record for path in folder.measured_files() for record in read_ceilings(path).records]
        for host, lines in measured_ceiling_lines(folder).items():
            file = out or (results.ceilings_of(host) if results else None)
            if file:
                append_ceiling_lines(file, lines)
        return ending, records
