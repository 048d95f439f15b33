"""Which ceilings are still missing, and the processes that measure them in as few probes as possible;
collects what a probe has written. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from hpcbench.ceilings.ceiling_records import Ceiling, append_ceiling_lines, read_ceilings
from hpcbench.ceilings.measurement_points import CEILING_OF_POINT, local_devices, points_of
from hpcbench.runs.claim import this_host
from hpcbench.runs.record_writer import write_atomically
from hpcbench.runs.results_folder import ResultsFolder, RunFolder, StoredRun, read_spec_file
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.run_spec import RunSpec, limit_of

# A probe may take half as long as a run, within these bounds: a job's time is made for its runs.
SHORTEST_PROBE_S, LONGEST_PROBE_S = 60, 600


def is_measured(spec: RunSpec, ceilings: Sequence[Ceiling]) -> bool:
    """Return whether all of a run's ceilings are among those of a node."""
    of_device = [each for each in ceilings if (each.device == "cpu") == (spec.device == "cpu")]
    return all(
        any(isinstance(each, CEILING_OF_POINT[type(point)]) and point.measured_by(each) for each in of_device)
        for point in points_of(spec)
    )


def one_run_per_ceilings(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Return one run for each set of ceilings: repeats, for example, share theirs."""
    found = {(spec.device, *points_of(spec)): spec for spec in specs}
    return list(found.values())


def probe_spec(specs: Sequence[RunSpec]) -> RunSpec:
    """Return the run that is no training: as many processes as the largest of some runs has on its nodes.

    The runs have the same device, nodes, image and data. It is started, bound and ended as they are.
    """
    nodes = specs[0].resources.nodes
    processes = nodes * max(max(local_devices(spec), 2 if spec.servers else 1) for spec in specs)
    resources = specs[0].resources
    limit_s = min(LONGEST_PROBE_S, max(SHORTEST_PROBE_S, resources.time_s // 2))
    return replace(
        specs[0],
        name="probe",
        repeat=0,
        backend="gloo" if processes > 1 else None,
        ranks=processes,
        data_shards=processes,
        devices=1,
        servers=0,
        strategy_options={},
        checkpoint="none",
        save_weights=False,
        resources=dataclasses.replace(resources, time=limit_of(limit_s)),
    )


@dataclass(frozen=True, kw_only=True)
class PlannedProbe:
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
    return STRATEGIES[spec.strategy].trains and not spec.smoke


def plan_probes(runs: Iterable[StoredRun]) -> list[PlannedProbe]:
    """Return as few probes as possible: what runs in one image, on like devices, nodes and data, is one."""
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for stored in runs:
        spec = stored.spec
        image = spec.to_json()["container"]
        key = (spec.device, spec.resources.nodes, image, stored.data, stored.cores_shared_by)
        groups[repr(key)].append(stored)
    found = []
    for members in groups.values():
        specs = one_run_per_ceilings(stored.spec for stored in members)
        first = members[0]
        stored = StoredRun(spec=probe_spec(specs), data=first.data, cores_shared_by=first.cores_shared_by)
        found.append(PlannedProbe(stored=stored, specs=tuple(specs)))
    return found


def probe_time_limits_s(runs: Iterable[RunSpec]) -> list[int]:
    """Return how long each probe before these runs may take, if nothing of them is measured yet."""
    wanted = [StoredRun(spec=spec) for spec in runs if spec.probe and has_ceilings(spec)]
    return [probe.stored.spec.resources.time_s for probe in plan_probes(wanted)]


def runs_without_ceilings(results: ResultsFolder, runs: Sequence[tuple[str, int]]) -> list[StoredRun]:
    """Return the runs whose ceilings were not measured on this node yet."""
    known = _known_ceilings(results)
    stored = (read_spec_file(results.run(name, repeat)) for name, repeat in runs)
    wanted = (each for each in stored if each.spec.probe and has_ceilings(each.spec))
    return [each for each in wanted if not is_measured(each.spec, known)]


def _known_ceilings(results: ResultsFolder) -> list[Ceiling]:
    path = results.ceilings_of(this_host())
    return [record.ceiling for record in read_ceilings(path).records] if path.exists() else []


def collect_ceilings(folder: RunFolder, results: ResultsFolder) -> int:
    """Put what a probe has measured where the sweep's ceilings stand, by host; returns how many lines."""
    count = 0
    for host, lines in measured_ceiling_lines(folder).items():
        append_ceiling_lines(results.ceilings_of(host), lines)
        count += len(lines)
    return count


def measured_ceiling_lines(folder: RunFolder) -> dict[str, list[str]]:
    """Return what the processes of a probe have written, by host. Raises RecordError for a broken file."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in folder.measured_files():
        read_ceilings(path)
        whole, _, _ = path.read_text(encoding="utf-8").rpartition("\n")  # what follows was cut off
        for line in whole.splitlines():
            host = json.loads(line)["host"]
            found[host].append(line)
    return found
