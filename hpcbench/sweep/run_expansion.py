"""Expands run entries of a sweep file: layers, grid, exclusions, names, duplicates, runs of groups."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any

from hpcbench.errors import InputError, input_error
from hpcbench.sweep.run_names import (
    DERIVED,
    FieldPattern,
    RunFields,
    check_name,
    differing_fields,
    fill_placeholders,
    generate_name,
    read_field,
)
from hpcbench.sweep.run_resolution import RunResolver
from hpcbench.sweep.run_spec import Group, RunSpec
from hpcbench.sweep.setting_layers import RunDraft, SettingLayer, fixed_paths, merge_layers
from hpcbench.sweep.sweep_sections import GroupEntry, RunEntry, SweepFile
from hpcbench.sweep.value_schema import did_you_mean
from hpcbench.sweep.yaml_document import KeyLocation

MAX_RUNS = 20_000
BUILT_IN_LAYER = SettingLayer({"repeats": 3}, lambda path: {"place": None, "key": None}, general=True)
ALONE = SettingLayer({"repeats": 1}, BUILT_IN_LAYER.locate, general=True)


@dataclass(frozen=True)
class PlannedRun:
    """A named run with its first repeat's seed; `at` is the location of its entry."""

    spec: RunSpec
    repeats: int
    at: KeyLocation

    @property
    def name(self) -> str:
        """The run's name."""
        return self.spec.name

    @cached_property
    def specs(self) -> tuple[RunSpec, ...]:
        """Every repeat, each with its own seed."""
        spec = self.spec
        later = (replace(spec, repeat=number, seed=spec.seed + number) for number in range(1, self.repeats))
        return (spec, *later)


@dataclass(frozen=True)
class _Resolved:
    """A run without a name yet; `varied` are the fields that its own grid varies."""

    entry: RunEntry
    draft: RunDraft
    spec: RunSpec
    varied: tuple[str, ...]


@dataclass(frozen=True)
class RunPlanner:
    """Expands files. `settings` override everything; `smoke` accepts runs that this machine cannot do."""

    fields: RunFields
    resolver: RunResolver
    settings: tuple[SettingLayer, ...]
    smoke: bool = False

    def size(self, file: SweepFile) -> int:
        """Count the combinations of a file without making them; raises InputError above the limit."""
        total = 0
        for entry in file.entries:
            total += entry.grid.without(fixed_paths(self.settings)).size
            if total > MAX_RUNS:
                at = entry.document.at((*entry.root, "grid"))
                raise input_error(
                    "too many runs", **at, found=total, allowed=f"up to {MAX_RUNS:,} in a sweep"
                )
        return total

    def runs(self, file: SweepFile, sites: tuple[SettingLayer, ...]) -> list[PlannedRun]:
        """Expand a file's own runs; `sites` are the resources and containers of the files around it."""
        base = RunDraft((), {}, file.document.at(())).over(BUILT_IN_LAYER, *sites, file.site, file.defaults)
        resolved = [run for entry in file.entries for run in self._expand(base, entry)]
        return [
            PlannedRun(replace(run.spec, name=name), run.draft.values["repeats"], run.entry.at)
            for run, name in zip(resolved, self._names(resolved), strict=True)
        ]

    def single(self, layer: SettingLayer, at: KeyLocation) -> RunSpec:
        """Resolve and name one run outside of a sweep."""
        draft = RunDraft((), {}, at).over(ALONE, layer, *self.settings)
        if draft.values["repeats"] != 1:
            raise draft.error("repeats", "a single run has no repeats", hint="Put it into a sweep")
        spec = self._resolve(draft)
        return replace(spec, name=self._name(draft, spec, {}))

    def _expand(self, base: RunDraft, entry: RunEntry) -> list[_Resolved]:
        grid = entry.grid.without(fixed_paths(self.settings))
        varied = tuple(dict.fromkeys(path for axis in grid.axes for path in axis.varied()))
        entry_draft = replace(base, entry=entry.at).over(entry.layer)
        runs = []
        for combination in grid.combinations():
            draft = entry_draft.over(combination, *self.settings)
            if any(pattern.matches_values(draft.values) for pattern in entry.exclude):
                continue
            spec = self._resolve(draft)
            if not any(pattern.matches(spec) for pattern in entry.exclude):
                runs.append(_Resolved(entry, draft, spec, varied))
        if not runs:
            raise entry.document.error((*entry.root, "exclude"), "exclude leaves nothing of this run")
        return runs

    def _resolve(self, draft: RunDraft) -> RunSpec:
        try:
            return self.resolver.resolve(draft)
        except InputError:
            if not self.smoke or self.resolver.gpus_per_node:
                raise
            on_gpus = _as_on_gpus(draft)
            if on_gpus is None:
                raise
        return self.resolver.resolve(on_gpus)

    def _names(self, runs: Sequence[_Resolved]) -> list[str]:
        """Name the runs; equal generated names get the other fields that differ."""
        families: list[Any] = [id(run.entry) for run in runs]
        spreads = [dict.fromkeys(run.varied) for run in runs]
        names = self._named(runs, families, spreads)
        by_name: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(names):
            by_name[name].append(number)
        duplicates = [
            (name, numbers)
            for name, numbers in by_name.items()
            if len(numbers) > 1 and not any("name" in runs[number].draft.values for number in numbers)
        ]
        for name, numbers in duplicates:
            differences = differing_fields((runs[number].spec for number in numbers), self._nameable())
            for number in numbers:
                families[number] = name
                spreads[number] |= dict.fromkeys(differences)
        return self._named(runs, families, spreads) if duplicates else names

    def _nameable(self) -> dict[str, Any]:
        return {path: None for path in self.fields.leaves if path not in {"name", "resources.time", *DERIVED}}

    def _named(
        self, runs: Sequence[_Resolved], families: Sequence[Any], spreads: Sequence[dict[str, None]]
    ) -> list[str]:
        values: dict[tuple[Any, str], set[Any]] = defaultdict(set)
        for run, family, paths in zip(runs, families, spreads, strict=True):
            for path in paths:
                values[family, path].add(_hashable(read_field(run.spec, path)))
        return [
            self._name(run.draft, run.spec, {path: values[family, path] for path in paths})
            for run, family, paths in zip(runs, families, spreads, strict=True)
        ]

    def _name(self, draft: RunDraft, spec: RunSpec, spread: dict[str, set[Any]]) -> str:
        template, at = draft.values.get("name"), draft.at("name")
        if template is None:
            return check_name(generate_name(spec, spread, self.resolver.catalog), at)
        return check_name(fill_placeholders(template, spec, self.fields, at), at)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str) else repr(value)


def _as_on_gpus(draft: RunDraft) -> RunDraft | None:
    """Return the run on a node with enough GPUs, if it does not set their number."""
    resources = draft.values.get("resources", {})
    if "gpus_per_node" in resources:
        return None
    wanted = max(draft.values.get("ranks", 2), draft.values.get("devices", 1))
    assumed = SettingLayer(
        {"resources": {"gpus_per_node": min(wanted, 64)}}, lambda path: draft.entry, general=True
    )
    return RunDraft((assumed, *draft.layers), merge_layers(assumed.values, draft.values), draft.entry)


def merge_equal_runs(runs: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Drop runs that two files have with the same name and content; InputError for other duplicates."""
    by_name: dict[str, PlannedRun] = {}
    for run in runs:
        earlier = by_name.setdefault(run.name, run)
        if earlier is run:
            continue
        same_file = _file_of(earlier.at) == _file_of(run.at)
        if same_file or (earlier.spec, earlier.repeats) != (run.spec, run.repeats):
            raise _duplicate_name_error(earlier, run)
    return list(by_name.values())


def refuse_too_many_runs(runs: Sequence[PlannedRun]) -> None:
    """Raise for more runs, repeats included, than a sweep may have."""
    total = 0
    for run in runs:
        total += run.repeats
        if total > MAX_RUNS:
            raise input_error(
                "too many runs, repeats included",
                **run.at,
                found=sum(run.repeats for run in runs),
                allowed=f"up to {MAX_RUNS:,} in a sweep",
            )


def refuse_duplicate_ids(runs: Sequence[PlannedRun]) -> None:
    """Raise where two names are the same run, in any of their repeats."""
    by_id: dict[str, tuple[PlannedRun, RunSpec]] = {}
    for run in runs:
        for spec in run.specs:
            earlier, earlier_spec = by_id.setdefault(spec.run_id, (run, spec))
            if earlier is not run:
                which = "" if (spec.repeat, earlier_spec.repeat) == (0, 0) else f" in seed {spec.seed}"
                raise input_error(
                    f"{earlier.name} (from {earlier.at['place']}) and {run.name} are the same run{which}",
                    **run.at,
                    found=run.name,
                    hint="Drop one of them, or change a field that affects learning or speed",
                )


def _duplicate_name_error(earlier: PlannedRun, run: PlannedRun) -> InputError:
    old, new = earlier.spec.to_json(), run.spec.to_json()
    differing = [key for key, value in old.items() if value != new[key]]
    if earlier.repeats != run.repeats:
        differing.append("repeats")
    how = f"they differ in {', '.join(differing)}" if differing else "they are the same"
    return input_error(
        f"two runs have this name, the first from {earlier.at['place']}, and {how}",
        **run.at,
        found=run.name,
        hint="Give each its own name, with {field} in it for a grid" if differing else "Drop one",
    )


def _file_of(at: KeyLocation) -> str | None:
    return at["place"].file if at["place"] else None


def runs_of_group(entry: GroupEntry, runs: Sequence[PlannedRun]) -> Group:
    """Return the group with its runs, in the sweep's order; raises InputError where there are none."""
    if entry.runs is not None:
        names = _by_globs(entry, [run.name for run in runs])
    else:
        names = [run.name for run in runs if entry.where is None or entry.where.matches(run.spec)]
        if not names:
            raise _empty_group_error(entry, runs)
    return Group(id=entry.id, title=entry.title, factor=entry.factor, runs=tuple(dict.fromkeys(names)))


def _by_globs(entry: GroupEntry, names: Sequence[str]) -> list[str]:
    chosen: set[str] = set()
    for number, glob in enumerate(entry.runs or ()):
        matching = {name for name in names if fnmatchcase(name, glob)}
        if not matching:
            raise input_error(
                "no run has such a name",
                **entry.at("runs", number),
                found=glob,
                hint=did_you_mean(glob, names) or f"Runs are: {', '.join(names[:5])}",
            )
        chosen |= matching
    if not chosen:
        raise input_error("the group is empty: it names no runs", **entry.at("runs"))
    return [name for name in names if name in chosen]


def _empty_group_error(entry: GroupEntry, runs: Sequence[PlannedRun]) -> InputError:
    conditions = entry.where.conditions if entry.where else ()
    for path, wanted in conditions:
        if not any(FieldPattern(((path, wanted),)).matches(run.spec) for run in runs):
            present = sorted({str(read_field(run.spec, path)) for run in runs if hasattr(run.spec, path)})
            return input_error(
                "the group is empty: no run has this",
                **entry.at("where", path),
                found=list(wanted) if len(wanted) > 1 else wanted[0],
                allowed=", ".join(present[:10]) or None,
            )
    hint = "Each condition matches some run, and no run matches all of them" if conditions else None
    return input_error("the group is empty: no run matches", **entry.at("where"), hint=hint)
