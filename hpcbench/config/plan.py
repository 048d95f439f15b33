"""From a file's run entries to named runs: layers, grid, exclude, names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from hpcbench.config.document import At
from hpcbench.config.fields import DERIVED, Fields, differing, read
from hpcbench.config.layers import Draft, Layer, merge
from hpcbench.config.names import check_name, fill_in, made_name
from hpcbench.config.resolve import Resolver
from hpcbench.config.sections import RunEntry, SweepFile
from hpcbench.config.settings import fixed_paths
from hpcbench.config.spec import RunSpec
from hpcbench.errors import InputError, input_error

MAX_RUNS = 20_000
BUILT_IN = Layer({"repeats": 3}, lambda path: {"place": None, "key": None}, general=True)
ALONE = Layer({"repeats": 1}, BUILT_IN.locate, general=True)


@dataclass(frozen=True)
class Planned:
    """A named run with its first repeat's seed; `at` is where it was asked for."""

    spec: RunSpec
    repeats: int
    at: At

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
    draft: Draft
    spec: RunSpec
    varied: tuple[str, ...]


@dataclass(frozen=True)
class Planner:
    """Expands files. `settings` lie over everything; `smoke` takes runs that this machine could not do."""

    fields: Fields
    resolver: Resolver
    settings: tuple[Layer, ...]
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

    def runs(self, file: SweepFile, sites: tuple[Layer, ...]) -> list[Planned]:
        """Expand a file's own runs; `sites` are the resources and containers of the files around it."""
        base = Draft((), {}, file.document.at(())).over(BUILT_IN, *sites, file.site, file.defaults)
        resolved = [run for entry in file.entries for run in self._expand(base, entry)]
        return [
            Planned(replace(run.spec, name=name), run.draft.values["repeats"], run.entry.at)
            for run, name in zip(resolved, self._names(resolved), strict=True)
        ]

    def single(self, layer: Layer, at: At) -> RunSpec:
        """Resolve and name one run that stands alone."""
        draft = Draft((), {}, at).over(ALONE, layer, *self.settings)
        if draft.values["repeats"] != 1:
            raise input_error(
                "a single run has no repeats", **draft.at("repeats"), hint="Put it into a sweep"
            )
        spec = self._resolve(draft)
        return replace(spec, name=self._name(draft, spec, {}))

    def _expand(self, base: Draft, entry: RunEntry) -> list[_Resolved]:
        grid = entry.grid.without(fixed_paths(self.settings))
        varied = tuple(dict.fromkeys(path for axis in grid.axes for path in axis.varied()))
        below = replace(base, entry=entry.at).over(entry.layer)
        runs = []
        for combination in grid.combinations():
            draft = below.over(combination, *self.settings)
            if any(pattern.matches_values(draft.values) for pattern in entry.exclude):
                continue
            spec = self._resolve(draft)
            if not any(pattern.matches(spec) for pattern in entry.exclude):
                runs.append(_Resolved(entry, draft, spec, varied))
        if not runs:
            raise input_error(
                "exclude leaves nothing of this run", **entry.document.at((*entry.root, "exclude"))
            )
        return runs

    def _resolve(self, draft: Draft) -> RunSpec:
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
        """Name the runs; made names that meet are told apart by whatever else differs."""
        families: list[Any] = [id(run.entry) for run in runs]
        spreads = [dict.fromkeys(run.varied) for run in runs]
        names = self._named(runs, families, spreads)
        meeting: dict[str, list[int]] = defaultdict(list)
        for number, name in enumerate(names):
            meeting[name].append(number)
        again = [
            (name, numbers)
            for name, numbers in meeting.items()
            if len(numbers) > 1 and not any("name" in runs[number].draft.values for number in numbers)
        ]
        for name, numbers in again:
            differences = differing((runs[number].spec for number in numbers), self._nameable())
            for number in numbers:
                families[number] = name
                spreads[number] |= dict.fromkeys(differences)
        return self._named(runs, families, spreads) if again else names

    def _nameable(self) -> dict[str, Any]:
        return {path: None for path in self.fields.leaves if path not in {"name", "resources.time", *DERIVED}}

    def _named(
        self, runs: Sequence[_Resolved], families: Sequence[Any], spreads: Sequence[dict[str, None]]
    ) -> list[str]:
        values: dict[tuple[Any, str], set[Any]] = defaultdict(set)
        for run, family, paths in zip(runs, families, spreads, strict=True):
            for path in paths:
                values[family, path].add(_hashable(read(run.spec, path)))
        return [
            self._name(run.draft, run.spec, {path: values[family, path] for path in paths})
            for run, family, paths in zip(runs, families, spreads, strict=True)
        ]

    def _name(self, draft: Draft, spec: RunSpec, spread: dict[str, set[Any]]) -> str:
        template, at = draft.values.get("name"), draft.at("name")
        if template is None:
            return check_name(made_name(spec, spread, self.resolver.catalog), at)
        return check_name(fill_in(template, spec, self.fields, at), at)


def _hashable(value: Any) -> Any:
    return value if isinstance(value, str) else repr(value)


def _as_on_gpus(draft: Draft) -> Draft | None:
    """Suppose a node with enough GPUs for a run that does not say how many it wants."""
    resources = draft.values.get("resources", {})
    if "gpus_per_node" in resources:
        return None
    wanted = max(draft.values.get("ranks", 2), draft.values.get("devices", 1))
    supposed = Layer(
        {"resources": {"gpus_per_node": min(wanted, 64)}}, lambda path: draft.entry, general=True
    )
    return Draft((supposed, *draft.layers), merge(supposed.values, draft.values), draft.entry)
