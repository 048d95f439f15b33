"""Fields of runs for `exclude`, `where`, `factor` and `{field}`, and the names that are made from them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, get_type_hints

from hpcbench.errors import InputError, input_error
from hpcbench.sweep.catalog_entries import Catalog, ProcessLayout
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.value_schema import LeafSchema, Locate, MapSchema, did_you_mean, map_of
from hpcbench.sweep.yaml_document import KeyLocation, KeyPath

DERIVED = ("global_batch", "processes", "device", "data_shards", "updates_per_step", "servers")
MISSING = object()


def read_field(spec: RunSpec, path: str) -> Any:
    """Return a field of a resolved run by dotted path; MISSING where it has no such option."""
    head, *rest = path.split(".")
    value = getattr(spec, head)
    for part in rest:
        value = value.get(part, MISSING) if isinstance(value, dict) else getattr(value, part)
        if value is MISSING:
            break
    return value


def differing_fields(specs: Iterable[RunSpec], fields: Mapping[str, object]) -> list[str]:
    """Return the fields in which runs differ, in the order of `fields`."""
    runs = list(specs)
    return [path for path in fields if len({repr(read_field(spec, path)) for spec in runs}) > 1]


class RunFields:
    """The fields of resolved runs, with the options of every strategy and data set, and their types."""

    def __init__(self, schema: MapSchema, catalog: Catalog) -> None:
        self.schema, self.catalog = schema, catalog

    @cached_property
    def leaves(self) -> dict[str, tuple[LeafSchema, ...]]:
        """Types by dotted path; an option of several strategies has several."""
        hints = get_type_hints(RunSpec, include_extras=True)
        leaves: dict[str, tuple[LeafSchema, ...]] = {
            path: (leaf,) for path, leaf in self.schema.leaves().items() if path != "repeats"
        }
        leaves |= {name: (LeafSchema(hints.get(name, int)),) for name in DERIVED}
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

    def pattern(self, value: Any, locate: Locate, path: KeyPath) -> FieldPattern:
        """Check a map of `exclude` or `where`."""
        if not isinstance(value, dict) or not value:
            allowed = "a map such as {backend: gloo, batch_size: [64, 128]}"
            raise input_error(
                "not a map of fields", **locate(path), found=value or "nothing", allowed=allowed
            )
        return FieldPattern(tuple(self._conditions(value, locate, path, "")))

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
                raise input_error("the list is empty: no value matches it", **locate(here))
            any_of = wanted if isinstance(wanted, list) else [wanted]
            yield name, tuple(_check_pattern_value(item, leaves, locate, here) for item in any_of)


def _check_pattern_value(value: Any, leaves: tuple[LeafSchema, ...], locate: Locate, path: KeyPath) -> Any:
    fitting = next((leaf for leaf in leaves if leaf.accepts(value)), leaves[0])
    return fitting.check(value, locate, path)


@dataclass(frozen=True)
class FieldPattern:
    """Fields and their wanted values: a run matches that has one of the values in each field."""

    conditions: tuple[tuple[str, tuple[Any, ...]], ...]

    def matches(self, spec: RunSpec) -> bool:
        """Return whether a resolved run matches."""
        return all(read_field(spec, path) in wanted for path, wanted in self.conditions)

    def matches_values(self, values: dict[str, Any]) -> bool:
        """Return whether the values of a sweep file already match, before the run is resolved."""
        return all(_look_up(values, path) in wanted for path, wanted in self.conditions)


def _look_up(values: Any, path: str) -> Any:
    for part in path.split("."):
        if not isinstance(values, dict) or part not in values:
            return MISSING
        values = values[part]
    return values


MAX_LENGTH = 150  # a file name may have 255 bytes, and names get endings
_RULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

# Together they make one part: bs128x2.
_BATCH = ("batch_size", "global_batch", "ranks", "devices")
_FIRST = ("strategy", "strategy_options", "backend", "dataset", "model", "stem", *_BATCH)
_ORDER = (*_FIRST, "", "cache", "precision")  # "": all other fields


def check_name(name: str, at: KeyLocation, *, what: str = "name") -> str:
    """Return the name; raises InputError where it is not a portable folder name."""
    if _RULE.fullmatch(name) and len(name) <= MAX_LENGTH:
        return name
    proper = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:MAX_LENGTH]
    raise input_error(
        f"not a usable {what}",
        **at,
        found=name,
        allowed=f"letters, digits, '.', '_' and '-', first no '.' or '-', at most {MAX_LENGTH} of them",
        hint=f"Perhaps {proper}" if proper else None,
    )


def fill_placeholders(template: str, spec: RunSpec, fields: RunFields, at: KeyLocation) -> str:
    """Replace `{field}` by the run's value of that field."""

    def value_of(match: re.Match[str]) -> str:
        word = match[1]
        if word not in fields.leaves or word == "name":
            raise fields.unknown(word, lambda path: at, ())
        return _format_value(read_field(spec, word))

    return _PLACEHOLDER.sub(value_of, template)


def generate_name(spec: RunSpec, spread: Mapping[str, Collection[Any]], catalog: Catalog) -> str:
    """Make a name; `spread` has the fields that vary, each with all the values that it takes."""
    parts = dict.fromkeys(
        _name_part(path, spec, spread[path], catalog)
        for path in sorted(spread, key=_position)
        if path != "strategy"
    )
    return "_".join((spec.strategy, *(part for part in parts if part)))


def _position(path: str) -> int:
    head = path.split(".", maxsplit=1)[0]
    return _ORDER.index(head if head in _ORDER else "")


def _name_part(path: str, spec: RunSpec, values: Collection[Any], catalog: Catalog) -> str:
    value = read_field(spec, path)
    if path in _BATCH:
        return f"bs{spec.batch_size}{_width(spec, catalog)}"
    if path == "cache" and set(values) <= {"none", "memory"}:
        return f"cache{value == 'memory'}"
    if path == "precision" and _is_switch(values):
        return f"amp{value.startswith('amp')}"
    if value is MISSING:
        return ""
    if isinstance(value, str):
        return _format_value(value)
    return f"{path.rsplit('.', maxsplit=1)[-1]}{_format_value(value)}"


def _is_switch(precisions: Collection[str]) -> bool:
    mixed = [precision for precision in precisions if precision.startswith("amp")]
    return len(mixed) <= 1 and len(precisions) - len(mixed) <= 1


def _width(spec: RunSpec, catalog: Catalog) -> str:
    processes = catalog.strategies[spec.strategy].processes
    if processes is ProcessLayout.ONE:
        return ""
    if processes is ProcessLayout.ONE_MANY_DEVICES:
        return f"_ngpu{spec.devices}"
    return f"_workers{spec.ranks}" if spec.servers else f"x{spec.ranks}"


def _format_value(value: Any) -> str:
    text = "none" if value is None or value is MISSING else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("+", ""))
