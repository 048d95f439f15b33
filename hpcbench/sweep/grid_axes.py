"""`grid` and `exclude`: the combinations of a run's axes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from hpcbench.errors import input_error
from hpcbench.sweep.setting_layers import EXCLUSIVE_KEYS, SettingLayer
from hpcbench.sweep.value_schema import Locate, MapSchema, OptionsSchema, did_you_mean
from hpcbench.sweep.yaml_document import KeyLocation, KeyPath, YamlDocument

NO_AXES = {
    "repeats": "Repeats are no axis: set them beside the grid; they are interleaved in time",
    "name": "Put {field} into the run's name instead",
}


@dataclass(frozen=True)
class Axis:
    """Values of one field; `path` is the field's, `root` that of the list in its file."""

    path: tuple[str, ...]
    values: tuple[Any, ...]
    root: KeyPath

    @property
    def name(self) -> str:
        """The field, dotted."""
        return ".".join(self.path)

    def varied(self) -> list[str]:
        """Return the dotted fields that the axis varies; an axis of maps varies what differs in them."""
        maps = [value for value in self.values if isinstance(value, dict)]
        if not maps:
            return [self.name] if len(self.values) > 1 else []
        keys = dict.fromkeys(key for value in maps for key in value)
        return [f"{self.name}.{key}" for key in keys if len({repr(value.get(key)) for value in maps}) > 1]


@dataclass(frozen=True)
class Grid:
    """All axes of one run, in the file's order; the last varies fastest."""

    document: YamlDocument
    axes: tuple[Axis, ...]

    @property
    def size(self) -> int:
        """The number of combinations, without making one."""
        return math.prod(len(axis.values) for axis in self.axes)

    def without(self, fixed: Sequence[tuple[str, ...]]) -> Grid:
        """Drop the axes that settings fix: the same field, one that contains it, or one that it excludes."""
        return Grid(self.document, tuple(axis for axis in self.axes if not _fixed(axis.path, fixed)))

    def combinations(self) -> Iterator[SettingLayer]:
        """Yield one layer for each combination."""
        for numbers in itertools.product(*(range(len(axis.values)) for axis in self.axes)):
            values: dict[str, Any] = {}
            for axis, number in zip(self.axes, numbers, strict=True):
                _put(values, axis.path, axis.values[number])
            yield SettingLayer(values, _Locator(self, numbers))


@dataclass(frozen=True)
class _Locator:
    grid: Grid
    numbers: tuple[int, ...]

    def __call__(self, path: KeyPath) -> KeyLocation:
        for axis, number in zip(self.grid.axes, self.numbers, strict=True):
            depth = len(axis.path)
            if path[:depth] == axis.path:
                return self.grid.document.at((*axis.root, number, *path[depth:]))
            if axis.path[: len(path)] == path:
                return self.grid.document.at((*axis.root, number))
        raise AssertionError(path)


def read_grid(schema: MapSchema, document: YamlDocument, root: KeyPath, value: Any) -> Grid:
    """Check a grid, and each value of each axis at its line."""

    def locate(path: KeyPath) -> KeyLocation:
        return document.at((*root, *path))

    if not isinstance(value, dict):
        allowed = "a map of lists such as {batch_size: [64, 128]}"
        raise input_error("not a map", **locate(()), found=value or "null", allowed=allowed)
    axes = tuple(_axis(schema, locate, root, key, values) for key, values in value.items())
    names = {axis.name for axis in axes}
    for axis in axes:
        parents = {".".join(axis.path[:depth]) for depth in range(1, len(axis.path))}
        for name in parents & names:
            raise input_error(f"this axis is inside the axis {name}", **locate((axis.name,)))
    for pair in EXCLUSIVE_KEYS:
        if names.issuperset(pair):
            raise input_error(
                f"{' and '.join(pair)} exclude each other", **locate((pair[1],)), allowed="one of them"
            )
    return Grid(document, axes)


def _axis(schema: MapSchema, locate: Locate, root: KeyPath, key: str, values: Any) -> Axis:
    if key in NO_AXES:
        raise input_error("no axis of a grid", **locate((key,)), hint=NO_AXES[key])
    path = tuple(key.split("."))
    node = schema.find(path)
    if node is None:
        guess = did_you_mean(key, (*schema.children, *schema.leaves()))
        raise input_error("no field of a run", **locate((key,)), found=key, hint=guess)
    if not isinstance(values, list) or not values:
        raise input_error(
            "an axis is a list of values",
            **locate((key,)),
            found=values if values is not None and values != [] else "nothing",
            allowed=f"a list such as [{values}]" if values else None,
        )
    is_option = isinstance(node, OptionsSchema) and len(path) > 1  # checked when the strategy is known
    checked = tuple(
        value if is_option else node.check(value, locate, (key, number))
        for number, value in enumerate(values)
    )
    seen: dict[str, int] = {}
    for number, value in enumerate(checked):
        if repr(value) in seen:
            raise input_error("this value is given twice in the axis", **locate((key, number)), found=value)
        seen[repr(value)] = number
    return Axis(path, checked, (*root, key))


def _put(values: dict[str, Any], path: tuple[str, ...], value: Any) -> None:
    for part in path[:-1]:
        values = values.setdefault(part, {})
    values[path[-1]] = value


def _fixed(path: tuple[str, ...], fixed: Sequence[tuple[str, ...]]) -> bool:
    excluded = {key: other for pair in EXCLUSIVE_KEYS for key, other in (pair, pair[::-1])}
    return any(
        path[: len(keys)] == keys or (excluded.get(path[0]) == keys[0] and len(keys) == 1) for keys in fixed
    )
