"""Loads sweep files with their includes into frozen runs, loads a single run, and writes a resolved sweep."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.data_location import locate_data
from hpcbench.sweep.run_expansion import (
    MAX_RUNS,
    PlannedRun,
    RunPlanner,
    merge_equal_runs,
    refuse_duplicate_ids,
    refuse_too_many_runs,
    runs_of_group,
)
from hpcbench.sweep.run_names import RunFields
from hpcbench.sweep.run_resolution import RunResolver, scale_down
from hpcbench.sweep.run_spec import Group, RunSpec, Sweep
from hpcbench.sweep.setting_layers import SettingLayer, layer_of, read_settings
from hpcbench.sweep.sweep_sections import VERSION, GroupEntry, SectionReader, SweepFile, as_map
from hpcbench.sweep.value_schema import FOLLOWS, did_you_mean, run_schema
from hpcbench.sweep.yaml_document import FLOAT, RESOLVED_HEADER, KeyLocation, YamlDocument, read_document


def load_sweep(
    files: Sequence[Path],
    catalog: Catalog,
    *,
    settings: Sequence[str] = (),
    only: Sequence[str] = (),
    default_gpus_per_node: int = 0,
    data_root: str | None = None,
    smoke: bool = False,
) -> Sweep:
    """Read sweep files; several are one sweep that includes them all, under the first one's name.

    `settings` are `--set KEY=VALUE`, `only` globs over run names, `data_root` is `--data`. A run that does
    not set its GPUs per node takes `default_gpus_per_node`; with `smoke` that is also what this
    machine has. Raises InputError for anything that cannot be used; nothing is written.
    """
    fields = RunFields(run_schema(catalog), catalog)
    layers = read_settings(settings, fields.schema, general=True)
    reader = IncludeReader(fields)
    roots = list(dict.fromkeys(reader.read(Path(path)) for path in files))
    first = reader.files[roots[0]]
    # The stored copy of a sweep that was submitted with --smoke has the number of GPUs.
    gpus = default_gpus_per_node if smoke else first.smoke_gpus
    resolver = RunResolver(catalog, default_gpus_per_node)
    assembler = SweepAssembler(reader, RunPlanner(fields, resolver, layers, smoke=gpus is not None))
    assembler.refuse_too_many()
    planned = merge_equal_runs([run for root in roots for run in assembler.expand(root)])
    if not planned:
        raise first.document.error(("runs",), "the sweep has no runs", hint="Add runs")
    refuse_too_many_runs(planned)
    refuse_duplicate_ids(planned)
    chosen = _selected_runs(planned, only)
    sources = reader.files.values()
    used = {run.spec.dataset for run in chosen}
    sweep = Sweep(
        name=first.name,
        files=tuple(file.document.file for file in sources),
        runs=_interleave_repeats(chosen),
        groups=_matching_names(chosen, assembler.groups.values()),
        data=locate_data(sources, used, catalog, data_root, smoke=gpus is not None),
        pack=first.pack,
    )
    return sweep if gpus is None else _smoke_sweep(sweep, catalog, gpus)


def load_run(
    file: Path | None,
    catalog: Catalog,
    *,
    settings: Sequence[str] = (),
    default_gpus_per_node: int = 0,
    smoke: bool = False,
) -> RunSpec:
    """Read one run: a file with a run's fields, a run folder's spec.json, or settings alone.

    Takes the arguments of `load_sweep`, except `only` and `data_root`: the location of the data is not part
    of a run.
    """
    fields = RunFields(run_schema(catalog), catalog)
    layers = read_settings(settings, fields.schema, general=False)
    spec = read_run(
        file, RunPlanner(fields, RunResolver(catalog, default_gpus_per_node), layers, smoke=smoke)
    )
    return scale_down(spec, catalog, default_gpus_per_node) if smoke and not spec.smoke else spec


def _selected_runs(planned: Sequence[PlannedRun], only: Sequence[str]) -> list[PlannedRun]:
    names = [run.name for run in planned]
    for glob in only:
        if not any(fnmatchcase(name, glob) for name in names):
            raise input_error(
                "no run has such a name",
                place=SourcePlace("--only"),
                found=glob,
                hint=did_you_mean(glob, names) or f"Runs are: {', '.join(names[:10])}",
            )
    return [run for run in planned if not only or any(fnmatchcase(run.name, glob) for glob in only)]


def _interleave_repeats(planned: Sequence[PlannedRun]) -> tuple[RunSpec, ...]:
    """List every run's first repeat, then every run's second: changes over time affect all runs alike."""
    most = max(run.repeats for run in planned)
    return tuple(run.specs[number] for number in range(most) for run in planned if number < run.repeats)


def _matching_names(chosen: Sequence[PlannedRun], groups: Iterable[Group]) -> tuple[Group, ...]:
    """Keep the part of each group that `--only` selects."""
    names = {run.name for run in chosen}
    left = (replace(group, runs=tuple(name for name in group.runs if name in names)) for group in groups)
    return tuple(group for group in left if group.runs)


def _smoke_sweep(sweep: Sweep, catalog: Catalog, gpus: int) -> Sweep:
    """Scale every run down, to one repeat each; `declared` keeps the originals."""
    pairs = [(scale_down(spec, catalog, gpus), spec) for spec in sweep.runs if spec.repeat == 0]
    return replace(
        sweep,
        runs=tuple(small for small, _ in pairs),
        declared={small.run_id: spec for small, spec in pairs},
        smoke_gpus=gpus,
    )


MAX_INCLUDE_DEPTH = 50


@dataclass
class IncludeReader:
    """Reads files and their includes once each, by real path."""

    fields: RunFields
    files: dict[Path, SweepFile] = field(default_factory=dict)
    included: dict[Path, tuple[Path, ...]] = field(default_factory=dict)

    def read(self, path: Path, chain: tuple[Path, ...] = (), requested_by: KeyLocation | None = None) -> Path:
        """Read a file and all that it includes, return its real path; `chain` lists the including files."""
        real = path.resolve()
        if real in chain:
            names = " includes ".join(file.name for file in (*chain[chain.index(real) :], real))
            raise _cannot_include(requested_by, "the includes form a cycle", names)
        if len(chain) > MAX_INCLUDE_DEPTH:
            raise _cannot_include(
                requested_by, f"includes are nested deeper than {MAX_INCLUDE_DEPTH}", str(path)
            )
        if real not in self.files:
            document = read_document(path, requested_by=requested_by)
            self.files[real] = file = SectionReader(document, self.fields).read()
            self.included[real] = tuple(
                self.read(document.folder / name, (*chain, real), document.at(("include", number)))
                for number, name in enumerate(file.include)
            )
        return real


def _cannot_include(requested_by: KeyLocation | None, problem: str, found: str) -> InputError:
    at = requested_by or KeyLocation(place=None, key=None)
    return input_error(problem, **at, found=found)


@dataclass
class SweepAssembler:
    """Expands the files that were read. A file's groups select from its own and its included runs."""

    reader: IncludeReader
    planner: RunPlanner
    groups: dict[str, Group] = field(default_factory=dict)
    _runs: dict[Path, list[PlannedRun]] = field(default_factory=dict)
    _origin: dict[str, GroupEntry] = field(default_factory=dict)

    def refuse_too_many(self) -> None:
        """Raise for more combinations than a sweep may have, before any is made."""
        total = 0
        for file in self.reader.files.values():
            total += self.planner.size(file)
            if total > MAX_RUNS:
                at = file.document.at(("runs",))
                raise input_error(
                    "too many runs", **at, found=total, allowed=f"up to {MAX_RUNS:,} in a sweep"
                )

    def expand(self, path: Path, sites: tuple[SettingLayer, ...] = ()) -> list[PlannedRun]:
        """Return the runs of a file, those of included files first; each file is expanded once."""
        if path not in self._runs:
            file = self.reader.files[path]
            around = (*sites, file.site)
            runs = [run for included in self.reader.included[path] for run in self.expand(included, around)]
            runs += self.planner.runs(file, sites)
            self._runs[path] = runs
            for entry in file.groups:
                self._add_group(entry, runs)
        return self._runs[path]

    def _add_group(self, entry: GroupEntry, runs: list[PlannedRun]) -> None:
        earlier = self._origin.setdefault(entry.id, entry)
        if earlier is not entry:
            raise input_error(
                f"two groups have this id, the first in {earlier.at('id')['place']}",
                **entry.at("id"),
                found=entry.id,
                hint="Give each its own id",
            )
        self.groups[entry.id] = runs_of_group(entry, runs)


COMMAND_LINE = "the command line"
_STORED = ("run_id", "spec", "declared", "data", "cores_shared_by")
_SWEEP_KEYS = ("runs", "grid", "exclude", "include", "groups")


def read_run(file: Path | None, planner: RunPlanner) -> RunSpec:
    """Return the run of a file with the planner's settings laid over it; no file: the settings alone."""
    document = YamlDocument(COMMAND_LINE, {}) if file is None else read_document(file)
    value = document.value
    if isinstance(value, dict) and "spec" in value:
        return _read_stored_spec(document, planner)
    schema = planner.fields.schema
    keys = ("version", *schema.children)
    hints = dict.fromkeys(_SWEEP_KEYS, "This belongs to a sweep: use hpcbench submit")
    values = dict(
        as_map(document, "a run is a map of its fields", keys, value=value, hints={**FOLLOWS, **hints})
    )
    if values.pop("version", VERSION) != VERSION:
        raise document.error(("version",), "this hpcbench reads another version", allowed=str(VERSION))
    return planner.single(layer_of(schema, document, (), values), document.at(()))


def _read_stored_spec(document: YamlDocument, planner: RunPlanner) -> RunSpec:
    """Read a run as it was written into its folder; settings change it, and what follows from them."""
    stored = as_map(document, "a stored run is a map", _STORED)["spec"]

    def locate(path: Any) -> KeyLocation:
        return document.at(("spec", *path))

    checked = run_schema(planner.resolver.catalog, stored=True).check(stored, locate, ())
    for key in ("name", "strategy"):
        if key not in checked:
            raise input_error(f"a stored run needs {key}", **locate(()))
    spec = RunSpec.from_json(checked)
    if not planner.settings:
        return spec
    settable = {key: value for key, value in checked.items() if key not in FOLLOWS and value is not None}
    changed = planner.single(SettingLayer(settable, locate, general=True), locate(()))
    kept = {key: getattr(spec, key) for key in ("repeat", "smoke", "declared_id", "steps_per_epoch")}
    return replace(changed, **kept)


_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BASE):  # type: ignore[misc]
    """Writes no aliases, and quotes text that hpcbench or a YAML 1.1 reader would read as another type."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("+-.0123456789"))


def dump_sweep(sweep: Sweep) -> str:
    """Write a sweep as it was resolved; `load_sweep` reads it back to the same run ids.

    Every run is written out, what all have in common under `defaults`. With `--smoke` these are the declared
    runs, and `smoke` is the number of GPUs that they are scaled down to.
    """
    runs = list(_first_repeats(sweep))
    common = {
        key: value
        for key, value in (runs[0] if runs else {}).items()
        if key != "name" and all(repr(run.get(key)) == repr(value) for run in runs)
    }
    content = {
        "version": VERSION,
        "name": sweep.name,
        **({} if sweep.smoke_gpus is None else {"smoke": sweep.smoke_gpus}),
        **({} if sweep.pack is True else {"pack": sweep.pack}),
        **({"data": sweep.data} if sweep.data else {}),
        "defaults": common,
        "runs": [{key: value for key, value in run.items() if key not in common} for run in runs],
        "groups": [
            {"id": group.id, "title": group.title, "factor": list(group.factor), "runs": list(group.runs)}
            for group in sweep.groups
        ],
    }
    body = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1_000_000
    )
    origin = " ".join(", ".join(sweep.files).split())
    return f"{RESOLVED_HEADER}\n# From: {origin}\n{body}"


def _first_repeats(sweep: Sweep) -> Iterable[dict[str, Any]]:
    declared = [sweep.declared.get(spec.run_id, spec) for spec in sweep.runs]
    repeats: dict[str, int] = {}
    for spec in declared:
        repeats[spec.name] = repeats.get(spec.name, 0) + 1
    return (_fields(spec, repeats[spec.name]) for spec in declared if spec.repeat == 0)


def _fields(spec: RunSpec, repeats: int) -> dict[str, Any]:
    """Return the fields of a sweep file that describe exactly this run."""
    values = {key: value for key, value in dataclasses.asdict(spec).items() if key not in FOLLOWS}
    values["repeats"] = repeats
    if spec.container.image is None:
        values["container"].pop("image")
    return {key: value for key, value in values.items() if value is not None and value != {}}
