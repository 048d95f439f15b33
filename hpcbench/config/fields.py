"""What `exclude`, `where`, `factor` and `{field}` in names can see of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from hpcbench.config.catalog import Catalog
from hpcbench.config.document import KeyPath
from hpcbench.config.schema import Leaf, Locate, Map, did_you_mean, map_of
from hpcbench.config.spec import RunSpec
from hpcbench.errors import InputError, input_error

DERIVED = ("global_batch", "processes", "device", "data_shards", "updates_per_step", "servers")
MISSING = object()


def read(spec: RunSpec, path: str) -> Any:
    """Return a field of a resolved run by dotted path; MISSING where it has no such option."""
    head, *rest = path.split(".")
    value = getattr(spec, head)
    for part in rest:
        value = value.get(part, MISSING) if isinstance(value, dict) else getattr(value, part)
        if value is MISSING:
            break
    return value


def differing(specs: Iterable[RunSpec], fields: Mapping[str, object]) -> list[str]:
    """Return the fields in which runs differ, in the order of `fields`."""
    runs = list(specs)
    return [path for path in fields if len({repr(read(spec, path)) for spec in runs}) > 1]


class Fields:
    """The fields of resolved runs, with the options of every strategy and data set, and their types."""

    def __init__(self, schema: Map, catalog: Catalog) -> None:
        self.schema, self.catalog = schema, catalog

    @cached_property
    def leaves(self) -> dict[str, tuple[Leaf, ...]]:
        """Types by dotted path; an option of several strategies has several."""
        hints = get_type_hints(RunSpec, include_extras=True)
        leaves: dict[str, tuple[Leaf, ...]] = {
            path: (leaf,) for path, leaf in self.schema.leaves().items() if path != "repeats"
        }
        leaves |= {name: (Leaf(hints.get(name, int)),) for name in DERIVED}
        for field, entries in (
            ("strategy_options", self.catalog.strategies),
            ("dataset_options", self.catalog.datasets),
        ):
            for options in {entry.options for entry in entries.values()}:
                for path, leaf in map_of(options).leaves(f"{field}.").items():
                    leaves[path] = (*leaves.get(path, ()), leaf)
        return leaves

    def unknown(self, word: str, locate: Locate, path: KeyPath) -> InputError:
        """Return the message for a word that names no field."""
        return input_error(
            "no field of a run",
            **locate(path),
            found=word,
            hint=did_you_mean(word, self.leaves) or "docs/sweeps.md lists the fields",
        )

    def pattern(self, value: Any, locate: Locate, path: KeyPath) -> Pattern:
        """Check a map of `exclude` or `where`."""
        if not isinstance(value, dict) or not value:
            allowed = "a map such as {backend: gloo, batch_size: [64, 128]}"
            raise input_error(
                "not a map of fields", **locate(path), found=value or "nothing", allowed=allowed
            )
        return Pattern(tuple(self._conditions(value, locate, path, "")))

    def _conditions(
        self, value: dict[str, Any], locate: Locate, path: KeyPath, prefix: str
    ) -> Iterable[tuple[str, tuple[Any, ...]]]:
        for key, wanted in value.items():
            here, name = (*path, key), prefix + key
            if isinstance(wanted, dict):
                yield from self._conditions(wanted, locate, here, f"{name}.")
                continue
            leaves = self.leaves.get(name)
            if leaves is None:
                raise self.unknown(name, locate, here)
            if wanted == []:
                raise input_error("the list is empty: nothing is any of it", **locate(here))
            any_of = wanted if isinstance(wanted, list) else [wanted]
            yield name, tuple(_checked(each, leaves, locate, here) for each in any_of)


def _checked(value: Any, leaves: tuple[Leaf, ...], locate: Locate, path: KeyPath) -> Any:
    fitting = next((leaf for leaf in leaves if leaf.accepts(value)), leaves[0])
    return fitting.check(value, locate, path)


@dataclass(frozen=True)
class Pattern:
    """Fields with the values that are meant: a run matches that has one of them in each field."""

    conditions: tuple[tuple[str, tuple[Any, ...]], ...]

    def matches(self, spec: RunSpec) -> bool:
        """Say whether a resolved run is meant."""
        return all(read(spec, path) in wanted for path, wanted in self.conditions)

    def matches_values(self, values: dict[str, Any]) -> bool:
        """Say whether what a sweep file says already makes a run match, before it is resolved."""
        return all(_look_up(values, path) in wanted for path, wanted in self.conditions)


def _look_up(values: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return MISSING
        values = values[part]
    return values
