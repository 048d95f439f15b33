"""Layers of settings: defaults, run, grid, options, and `--set KEY=VALUE` of the command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from hpcbench.errors import InputError, SourcePlace, input_error
from hpcbench.sweep.value_schema import SHORT_FORMS, Locate, MapSchema, did_you_mean, map_of
from hpcbench.sweep.yaml_document import KeyLocation, KeyPath, YamlDocument, dotted_path, parse_document

# Two ways to set the same thing: a layer has at most one of them, and a later layer's replaces both.
EXCLUSIVE_KEYS = (("batch_size", "global_batch"), ("epochs", "steps"))


@dataclass(frozen=True)
class SettingLayer:
    """Checked values of one source. Strategies that have no use for a `general` value ignore it."""

    values: dict[str, Any]
    locate: Locate
    general: bool = False

    def has(self, path: KeyPath) -> bool:
        """Return whether the path has a value."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True


def layer_of(
    schema: MapSchema, document: YamlDocument, root: KeyPath, value: dict[str, Any], *, general: bool = False
) -> SettingLayer:
    """Check the map at `root` of a document, which may not set two keys that exclude each other."""

    def locate(path: KeyPath) -> KeyLocation:
        return document.at((*root, *path))

    checked = schema.check(value, locate, ())
    for pair in EXCLUSIVE_KEYS:
        given = {key: checked[key] for key in pair if checked.get(key) is not None}
        if len(given) > 1:
            problem = f"{' and '.join(pair)} exclude each other"
            raise document.error((*root, pair[1]), problem, found=given, allowed="one of them")
    return SettingLayer(checked, locate, general)


def merge_layers(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Return one layer's values overridden by another's; the arguments are not changed.

    Maps merge key by key. An optimizer, schedule or container of another name replaces the old one with its
    settings.
    """
    merged = dict(base)
    for one, other in EXCLUSIVE_KEYS:
        if over.get(one) is not None:
            merged.pop(other, None)
        elif over.get(other) is not None:
            merged.pop(one, None)
    for key, value in over.items():
        current = base.get(key)
        if isinstance(value, dict) and isinstance(current, dict) and not _names_another(key, current, value):
            merged[key] = {**current, **value}
        else:
            merged[key] = value
    return merged


def _names_another(key: str, current: dict[str, Any], value: dict[str, Any]) -> bool:
    short = SHORT_FORMS.get(key)
    return short is not None and short in value and value[short] != current.get(short, value[short])


@dataclass(frozen=True)
class RunDraft:
    """A run before its resolution: its layers, lowest first, and their merged values."""

    layers: tuple[SettingLayer, ...]
    values: dict[str, Any]
    entry: KeyLocation

    def over(self, *layers: SettingLayer) -> RunDraft:
        """Lay more layers on top."""
        values = self.values
        for layer in layers:
            values = merge_layers(values, layer.values)
        return RunDraft((*self.layers, *layers), values, self.entry)

    def at(self, *path: str) -> KeyLocation:
        """Return the location of the value in force; for a default, that of the run."""
        for layer in reversed(self.layers):
            if layer.has(path):
                return layer.locate(path)
        return {"place": self.entry["place"], "key": dotted_path(path)}

    def error(self, field: str, problem: str, **details: Any) -> InputError:
        """Return the message about a field; `details` are those of `input_error`."""
        return input_error(problem, **self.at(field), **details)

    def is_general(self, field: str) -> bool:
        """Return whether a field is set only for many runs at once, in defaults or on the command line."""
        return all(layer.general for layer in self.layers if layer.has((field,)))


def read_settings(settings: Sequence[str], schema: MapSchema, *, general: bool) -> tuple[SettingLayer, ...]:
    """Check settings like those of a file; later ones override earlier ones.

    `general` settings are for all runs of a sweep; a strategy that has no use for one ignores it.
    """
    layers: list[SettingLayer] = []
    given: set[str] = set()
    for setting in settings:
        key, equals, text = setting.partition("=")
        place = SourcePlace(f"--set {key}")
        if not equals or not key or not text.strip():
            raise input_error("a setting is KEY=VALUE", place=SourcePlace("--set"), found=setting)
        path = tuple(key.split("."))
        if schema.find(path) is None:
            guess = did_you_mean(key, (*schema.children, *schema.leaves()))
            raise input_error(
                "no field of a run", place=place, found=key, hint=guess or _outside_of_runs(path[0])
            )
        document = parse_document(text, f"--set {key}", numbered=False)
        value: Any = document.value
        for part in reversed(path):
            value = {part: value}
        for pair in EXCLUSIVE_KEYS:
            excluded = next((name for name in pair if name != key and name in given and key in pair), None)
            if excluded:
                raise input_error(
                    f"{key} and {excluded} exclude each other", place=place, allowed="one of them"
                )
        given.add(key)
        layers.append(layer_of(schema, document, (), value, general=general))
    return tuple(layers)


def fixed_paths(layers: Sequence[SettingLayer]) -> tuple[tuple[str, ...], ...]:
    """Return the fields that settings fix; a grid drops its axes over them."""
    paths: list[tuple[str, ...]] = []
    for layer in layers:
        paths += _leaves(layer.values, ())
    return tuple(paths)


def _leaves(value: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        return [path]
    return [leaf for key, item in value.items() for leaf in _leaves(item, (*path, key))]


def _outside_of_runs(head: str) -> str | None:
    return "Give --data DIR for where the data sets are" if head == "data" else None


@cache
def _schema(kind: type) -> MapSchema:
    return map_of(kind)


def options_of(draft: RunDraft, field: str, kind: type, owner: str) -> dict[str, Any]:
    """Return the options in full, defaults filled in; raises InputError where one does not fit."""
    given = draft.values.get(field) or {}
    schema = _schema(kind)

    def locate(path: KeyPath) -> KeyLocation:
        return draft.at(*map(str, path))

    for key in given:
        if key not in schema.children:
            known = ", ".join(schema.children)
            raise input_error(
                f"{owner} has no such option",
                **locate((field, key)),
                found=key,
                allowed=known or "no options at all",
                hint=did_you_mean(key, schema.children),
            )
    checked = {key: schema.children[key].check(value, locate, (field, key)) for key, value in given.items()}
    return dataclasses.asdict(kind(**checked))
