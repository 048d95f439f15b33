"""Before the first run of a recipe on a node: what can the node do at most? A probe that fails fails no
run.

A probe is started as a run is: by the same supervisor, with the same cores, devices, image and nodes. Only
what its processes do differs (hpcbench.training.probing). Later runs of the sweep find its ceilings.
"""

from __future__ import annotations

import json
import shutil
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.config.spec import RunSpec
from hpcbench.errors import HpcbenchError
from hpcbench.launch.supervisor import log_line, supervise
from hpcbench.measure.ceilings.points import distinct, is_measured, probe_spec
from hpcbench.records.ceiling_files import read_ceilings
from hpcbench.records.ceiling_writer import append_lines
from hpcbench.records.ceilings import Ceiling
from hpcbench.runs.claim import AlreadyClaimedError, Ending
from hpcbench.runs.process_identity import this_host
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from hpcbench.runs.spec_file import StoredRun, read_spec_file
from hpcbench.strategies.strategy_registry import STRATEGIES

if TYPE_CHECKING:
    from hpcbench.launch.job_execution import JobExecution


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Runs whose ceilings are measured by one start of processes, as the one run that this is."""

    stored: StoredRun
    specs: tuple[RunSpec, ...]

    def write(self, folder: RunFolder) -> None:
        """Describe the probe in its folder, as a run is described in its own."""
        self.stored.write(folder)
        text = json.dumps([spec.to_json() for spec in self.specs], indent=1)
        write_atomically(folder.probe, text)


def has_ceilings(spec: RunSpec) -> bool:
    """Return whether there is anything to measure for a run: not where nothing is trained or compared."""
    return not STRATEGIES[spec.strategy].torch_free and not spec.smoke


def probes_for(runs: Iterable[StoredRun]) -> list[Probe]:
    """Return as few probes as possible: what runs in one image, on like devices, nodes and data, is one."""
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for stored in runs:
        spec = stored.spec
        image = spec.to_json()["container"]
        key = (spec.device, spec.resources.nodes, image, stored.data, stored.cores_shared_by)
        groups[repr(key)].append(stored)
    found = []
    for members in groups.values():
        specs = distinct(stored.spec for stored in members)
        first = members[0]
        stored = StoredRun(spec=probe_spec(specs), data=first.data, cores_shared_by=first.cores_shared_by)
        found.append(Probe(stored=stored, specs=tuple(specs)))
    return found


def probing_limits_s(runs: Iterable[RunSpec]) -> list[int]:
    """Return how long each probe before these runs may take, if nothing of them is measured yet."""
    wanted = [StoredRun(spec=spec) for spec in runs if spec.probe and has_ceilings(spec)]
    return [probe.stored.spec.resources.time_s for probe in probes_for(wanted)]


def probe_first(work: JobExecution, runs: Sequence[tuple[str, int]]) -> None:
    """Measure what this node can do at most, as far as the results do not tell yet."""
    if work.plan.shared or work.plan.array:
        return  # somebody else may be at work: what is measured then is no ceiling
    results = ResultsFolder(Path(work.plan.results))
    try:
        wanted = _unmeasured(results, runs)
    except (HpcbenchError, OSError) as error:
        log_line(f"ceilings not measured: {error}")
        return
    if not wanted:
        return
    told = results.job(work.job_id).probing
    try:
        told.touch()
        for number, probe in enumerate(probes_for(wanted)):
            if work.inbox.stopped():
                return
            _measure(work, probe, RunFolder(results.ceilings / f"{work.job_id}.{number}"))
    except OSError as error:
        log_line(f"ceilings not measured: {error}")
    finally:
        told.unlink(missing_ok=True)


def _measure(work: JobExecution, probe: Probe, folder: RunFolder) -> None:
    """Do a probe, and put what it has measured where the results have it."""
    began = time.monotonic()
    try:
        ending = _do(work, probe, folder)
        lines = collect_ceilings(folder, ResultsFolder(Path(work.plan.results)))
    except (HpcbenchError, OSError) as error:
        log_line(f"ceilings not measured: {error}")
        return
    reason = "" if ending.state == "finished" else f", not all: {ending.reason}; {folder.logs} tells more"
    log_line(
        f"ceilings of {len(probe.specs)} recipes: {lines} after {time.monotonic() - began:.1f} s{reason}"
    )
    if ending.state == "finished":
        shutil.rmtree(folder.path, ignore_errors=True)


def _unmeasured(results: ResultsFolder, runs: Sequence[tuple[str, int]]) -> list[StoredRun]:
    known = _ceilings_here(results)
    stored = (read_spec_file(results.run(name, repeat)) for name, repeat in runs)
    wanted = (each for each in stored if each.spec.probe and has_ceilings(each.spec))
    return [each for each in wanted if not is_measured(each.spec, known)]


def _ceilings_here(results: ResultsFolder) -> list[Ceiling]:
    path = results.ceilings_of(this_host())
    return [record.ceiling for record in read_ceilings(path).records] if path.exists() else []


def _do(work: JobExecution, probe: Probe, folder: RunFolder) -> Ending:
    probe.write(folder)
    try:
        task = work.assignment(probe.stored, work.claim(folder, probe.stored.spec))
    except AlreadyClaimedError as error:
        return Ending(state="failed", reason=str(error))
    return supervise(task, work.inbox, work.ranks(task))


def collect_ceilings(folder: RunFolder, results: ResultsFolder) -> int:
    """Put what a probe has measured where the sweep's ceilings stand, by host; returns how many lines."""
    count = 0
    for host, lines in measured_lines(folder).items():
        append_lines(results.ceilings_of(host), lines)
        count += len(lines)
    return count


def measured_lines(folder: RunFolder) -> dict[str, list[str]]:
    """Return what the processes of a probe have written, by host. Raises RecordError for a broken file."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in folder.measured_files():
        read_ceilings(path)
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # what follows was cut off
        for line in whole.splitlines():
            host = json.loads(line)["host"]
            found[host].append(line)
    return found
