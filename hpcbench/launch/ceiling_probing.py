"""Starts probes: before the first run of a job, and for `hpcbench probe`. A failed probe fails no run."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
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
from hpcbench.launch.machine_resources import Machine, this_machine
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.supervisor import Assignment, supervise
from hpcbench.runs.claim import AlreadyClaimedError, Claim, Ending, claim_next
from hpcbench.runs.ledger import JobPlan, new_job_id
from hpcbench.runs.results_folder import ResultsFolder, RunFolder, StoredRun
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
        """The name of the job in the ledger."""

    def stopped(self) -> bool:
        """Return whether nothing more is to be started."""

    def claim(self, folder: RunFolder, spec: RunSpec) -> Claim:
        """Claim the next attempt in a folder; raises AlreadyClaimedError."""

    def supervise(self, stored: StoredRun, claim: Claim) -> Ending:
        """Execute a claimed attempt with the job's cores, devices and nodes."""


def measure_before_first_run(work: ProbingJob, runs: Sequence[tuple[str, int]]) -> None:
    """Measure those ceilings of this node that the results do not have yet."""
    if work.plan.shared or work.plan.array:
        return  # other jobs may use the node: what is measured then is not a ceiling
    results = ResultsFolder(Path(work.plan.results))
    try:
        wanted = runs_without_ceilings(results, runs)
    except (HpcbenchError, OSError) as error:
        logger.warning("ceilings not measured: %s", error)
        return
    if not wanted:
        return
    marker = results.job(work.job_id).probing
    try:
        marker.touch()
        for number, probe in enumerate(plan_probes(wanted)):
            if work.stopped():
                return
            _measure_for_job(work, probe, RunFolder(results.ceilings / f"{work.job_id}.{number}"))
    except OSError as error:
        logger.warning("ceilings not measured: %s", error)
    finally:
        marker.unlink(missing_ok=True)


def _measure_for_job(work: ProbingJob, probe: PlannedProbe, folder: RunFolder) -> None:
    """Do a probe, and add what it has measured to the results."""
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


# Without a sweep file: the most common strategy, on a CPU with as many ranks as most machines have cores.
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


@dataclass(frozen=True, kw_only=True)
class RequestedProbes:
    """The probes of a request. `obstacles` maps why runs are impossible here to the first run that is.

    `results` is the results folder of the sweep, where the request names one.
    """

    probes: list[PlannedProbe]
    obstacles: dict[str, str]
    machine: Machine
    results: ResultsFolder | None


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """What was measured, why not everything was, and whether a signal stopped it."""

    measured: list[MeasuredCeiling]
    failures: list[str]
    stopped: bool


def plan_requested_probes(request: ProbeRequest, catalog: Catalog) -> RequestedProbes:
    """Return what to measure for a request. Raises InputError where none of its runs is possible here."""
    machine = this_machine()
    stored, results = _runs_to_probe(request, catalog, machine)
    possible, obstacles = _possible_runs(stored, machine, catalog)
    return RequestedProbes(
        probes=plan_probes(possible), obstacles=obstacles, machine=machine, results=results
    )


def measure_requested_probes(requested: RequestedProbes, out: Path | None) -> ProbeResult:
    """Measure, and write the ceilings to `out` or the results folder, one probe after the other."""
    inbox = SupervisorInbox()
    inbox.listen()
    measured: list[MeasuredCeiling] = []
    failures = []
    for probe in requested.probes:
        ending, records = _measure_in_scratch_folder(probe, requested.machine, inbox, out, requested.results)
        measured += records
        if ending.state != "finished":
            failures.append(ending.reason)
        if inbox.stopped():
            break
    return ProbeResult(measured=measured, failures=failures, stopped=inbox.stopped())


def _runs_to_probe(
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
    """Return the settings of a run without a sweep file. A strategy of one process takes no `ranks`."""
    named = [setting.removeprefix("strategy=") for setting in settings if setting.startswith("strategy=")]
    strategy = [] if named else [f"strategy={DEFAULT_STRATEGY}"]
    entry = catalog.strategies.get(named[-1]) if named else None
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


def _possible_runs(
    stored: Sequence[StoredRun], machine: Machine, catalog: Catalog
) -> tuple[list[StoredRun], dict[str, str]]:
    """Return the runs that can be measured here, and one run for each reason why others cannot.

    Raises InputError where none is left.
    """
    obstacles: dict[str, str] = {}
    possible = []
    for run in stored:
        obstacle = _obstacle_to_measurement(run, machine, catalog)
        if obstacle is None:
            possible.append(run)
        else:
            obstacles.setdefault(obstacle, run.spec.name)
    if not possible:
        raise InputError(f"no run can be measured here: {describe_obstacles(obstacles)}")
    return possible, obstacles


def _obstacle_to_measurement(run: StoredRun, machine: Machine, catalog: Catalog) -> str | None:
    if not has_ceilings(run.spec):
        return f"{run.spec.strategy} trains nothing"
    return obstacle_to_run(run.spec, machine, catalog, {run.spec.dataset: run.data} if run.data else {})


def describe_obstacles(obstacles: Mapping[str, str]) -> str:
    """Return in a sentence why runs cannot be measured."""
    return "; ".join(f"{name}: {obstacle}" for obstacle, name in obstacles.items())


def _measure_in_scratch_folder(
    probe: PlannedProbe,
    machine: Machine,
    inbox: SupervisorInbox,
    out: Path | None,
    results: ResultsFolder | None,
) -> tuple[Ending, list[MeasuredCeiling]]:
    """Do a probe in a temporary folder; returns how it ended and what it has measured."""
    with ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpcbench-probe-")))
        folder = RunFolder(scratch)
        probe.write(folder)
        spec = probe.stored.spec
        task = Assignment(
            spec=spec,
            claim=claim_next(folder, spec, f"probe-{new_job_id()}"),
            threads=threads_per_rank(machine, probe.stored.cores_shared_by),
            data=probe.stored.data,
            warnings=[],
            environment=dict(os.environ),
            runtime=rank_runtime(probe.stored, folder, os.environ),
        )
        ending = supervise(task, inbox)
        records = [record for path in folder.measured_files() for record in read_ceilings(path).records]
        for host, lines in measured_ceiling_lines(folder).items():
            file = out or (results.ceilings_of(host) if results else None)
            if file:
                append_ceiling_lines(file, lines)
        return ending, records
