"""`hpcbench probe`: what this node can do at most, measured here and now."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from hpcbench.cluster.probing import Probe, has_ceilings, measured_lines, probes_for
from hpcbench.config.catalog import Catalog, Processes
from hpcbench.config.data import ROOT_VARIABLE, locate_data
from hpcbench.config.load import load_run, load_sweep
from hpcbench.config.spec import RunSpec
from hpcbench.errors import InputError
from hpcbench.launch.admission import devices_sharing_cores, obstacle_to_run, threads_per_rank
from hpcbench.launch.machine_queue import is_machine_busy
from hpcbench.launch.machine_resources import Machine, this_machine
from hpcbench.launch.rank_processes import SupervisorInbox
from hpcbench.launch.supervisor import Assignment, supervise
from hpcbench.records.ceiling_files import MeasuredCeiling, newest, read_ceilings
from hpcbench.records.ceiling_writer import append_lines
from hpcbench.records.ceilings import CopyCheck
from hpcbench.runs.claim import Ending, claim_next
from hpcbench.runs.ledger import new_job_id
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from hpcbench.runs.spec_file import StoredRun

# Of a run that says nothing: what most runs of a node are, on a CPU with as many ranks as most machines bear.
USUAL_STRATEGY = "ddp"
MOST_USUAL_RANKS = 4


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What the command line asks for."""

    sweep: Path | None
    settings: tuple[str, ...]
    results: Path
    out: Path | None
    data: str | None
    json: bool


def probe(wanted: Wanted, catalog: Catalog) -> int:
    """Measure, write and print; returns 1 where something could not be measured or a copy arrives broken.

    Raises OSError where `out` can't be written, before anything is measured for it.
    """
    machine = this_machine()
    stored, results = _runs(wanted, catalog, machine)
    probes = probes_for(_possible(stored, machine, catalog))
    if wanted.out:
        append_lines(wanted.out, [])
    if is_machine_busy():
        print("hpcbench: a job is running on this machine: what is measured is no ceiling", file=sys.stderr)
    inbox = SupervisorInbox()
    inbox.listen()
    failures, measured = [], []
    for each in probes:
        ending, records = _measure(each, machine, inbox, wanted.out, results)
        measured += records
        if ending.state != "finished":
            failures.append(ending.reason)
        if inbox.stopped():
            break
    _print(measured, wanted.json)
    for reason in failures:
        print(f"hpcbench: not all could be measured: {reason}", file=sys.stderr)
    broken = any(isinstance(each.ceiling, CopyCheck) and each.ceiling.broken for each in measured)
    return 130 if inbox.stopped() else int(bool(failures) or broken)


def _runs(wanted: Wanted, catalog: Catalog, machine: Machine) -> tuple[list[StoredRun], ResultsFolder | None]:
    gpus = len(machine.gpus)
    if wanted.sweep is None:
        settings = [*_usual(machine, wanted.settings, catalog), *wanted.settings]
        spec = load_run(None, catalog, settings=settings, default_gpus_per_node=gpus)
        data = locate_data([], [spec.dataset], catalog, wanted.data, smoke=False)
        return _stored([spec], data), None
    root = wanted.data or os.environ.get(ROOT_VARIABLE)
    sweep = load_sweep(
        [wanted.sweep],
        catalog,
        settings=wanted.settings,
        default_gpus_per_node=gpus,
        data_root=root,
    )
    return _stored(sweep.runs, sweep.data), ResultsFolder((wanted.results / sweep.name).absolute())


def _usual(machine: Machine, settings: Sequence[str], catalog: Catalog) -> list[str]:
    """Return what a run is that nothing is said of. A strategy of one process has no ranks to be said."""
    said = [each.removeprefix("strategy=") for each in settings if each.startswith("strategy=")]
    strategy = [] if said else [f"strategy={USUAL_STRATEGY}"]
    entry = catalog.strategies.get(said[-1]) if said else None
    if entry and entry.processes in (Processes.ONE, Processes.ONE_MANY_DEVICES):
        return strategy
    ranks = len(machine.gpus) or min(MOST_USUAL_RANKS, machine.cores)
    return [*strategy, f"ranks={ranks}"]


def _stored(specs: Sequence[RunSpec], data: dict[str, str]) -> list[StoredRun]:
    shares = devices_sharing_cores(specs)
    return [
        StoredRun(spec=spec, data=data.get(spec.dataset), cores_shared_by=shares[spec.device])
        for spec in specs
    ]


def _possible(stored: Sequence[StoredRun], machine: Machine, catalog: Catalog) -> list[StoredRun]:
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
        print(f"hpcbench: left out: {named}", file=sys.stderr)
    return possible


def _measure(
    each: Probe, machine: Machine, inbox: SupervisorInbox, out: Path | None, results: ResultsFolder | None
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
        )
        ending = supervise(task, inbox)
        records = [record for path in folder.measured_files() for record in read_ceilings(path).records]
        for host, lines in measured_lines(folder).items():
            file = out or (results.ceilings_of(host) if results else None)
            if file:
                append_lines(file, lines)
        return ending, records


def _print(measured: Sequence[MeasuredCeiling], as_json: bool) -> None:
    records = newest(measured)
    if as_json:
        lines = [{"ceiling": r.ceiling.kind, "host": r.host, **asdict(r.ceiling)} for r in records]
        print(json.dumps({"ceilings": lines}, indent=1))
        return
    from hpcbench.cli.terminal_tables import console
    from hpcbench.cluster.show_ceilings import ceilings_table

    console().print(ceilings_table(records))
