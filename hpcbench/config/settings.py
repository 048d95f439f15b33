"""`--set KEY=VALUE` and globs of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcbench.config.document import parse_document
from hpcbench.config.layers import RIVALS, Layer, layer_of
from hpcbench.config.schema import Map, did_you_mean
from hpcbench.errors import Place, input_error


def read_settings(settings: Sequence[str], schema: Map, *, general: bool) -> tuple[Layer, ...]:
    """Check settings as if they stood in a file; later ones lie over earlier ones.

    `general` says that they are for all runs of a sweep, so that a strategy may have no use for one.
    """
    layers: list[Layer] = []
    said: dict[str, str] = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        place = Place(f"--set {key}")
        if not equals or not key or not text.strip():
            raise input_error("a setting is KEY=VALUE", place=Place("--set"), found=setting)
        path = tuple(key.split("."))
        if schema.find(path) is None:
            guess = did_you_mean(key, (*schema.children, *schema.leaves()))
            raise input_error("no field of a run", place=place, found=key, hint=guess or _elsewhere(path[0]))
        document = parse_document(text, f"--set {key}", numbered=False)
        value: Any = document.value
        for part in reversed(path):
            value = {part: value}
        for pair in RIVALS:
            rival = next((said[each] for each in pair if each != key and each in said and key in pair), None)
            if rival:
                raise input_error(f"{key} and {rival} stand together", place=place, allowed="one of them")
        said[key] = key
        layers.append(layer_of(schema, document, (), value, general=general))
    return tuple(layers)


def fixed_paths(layers: Sequence[Layer]) -> tuple[tuple[str, ...], ...]:
    """Return the fields that settings fix; an axis of a grid over one of them is no axis any more."""
    paths: list[tuple[str, ...]] = []
    for layer in layers:
        paths += _leaves(layer.values, ())
    return tuple(paths)


def _leaves(value: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    if not isinstance(value, dict) or not value:
        return [path]
    return [leaf for key, each in value.items() for leaf in _leaves(each, (*path, key))]


def _elsewhere(head: str) -> str | None:
    return "Give --data DIR for where the data sets are" if head == "data" else None
