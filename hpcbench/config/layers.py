"""Layers of settings, laid over each other: defaults, run, grid, command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hpcbench.config.document import At, Document, KeyPath, dotted
from hpcbench.config.schema import SHORT, Locate, Map
from hpcbench.errors import input_error

# Two ways to say the same thing: inside one layer only one of them, and a later layer's replaces both.
RIVALS = (("batch_size", "global_batch"), ("epochs", "steps"))


@dataclass(frozen=True)
class Layer:
    """Checked values of one place. `general` ones are passed over by strategies that have no use for them."""

    values: dict[str, Any]
    locate: Locate
    general: bool = False

    def has(self, path: KeyPath) -> bool:
        """Say whether something stands at the path."""
        value: Any = self.values
        for part in path:
            if not isinstance(value, dict) or part not in value:
                return False
            value = value[part]
        return True


def layer_of(
    schema: Map, document: Document, root: KeyPath, value: dict[str, Any], *, general: bool = False
) -> Layer:
    """Check a map that stands at `root` of a document."""

    def locate(path: KeyPath) -> At:
        return document.at((*root, *path))

    layer = Layer(schema.check(value, locate, ()), locate, general)
    refuse_rivals(layer)
    return layer


def refuse_rivals(layer: Layer) -> None:
    """Raise where one layer says the same thing in two ways."""
    for one, other in RIVALS:
        if layer.values.get(one) is not None and layer.values.get(other) is not None:
            raise input_error(
                f"{one} and {other} stand together",
                **layer.locate((other,)),
                found={one: layer.values[one], other: layer.values[other]},
                allowed="one of them",
            )


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Lay one layer's values over another's; the arguments stay as they are.

    Maps merge key by key, except that an optimizer, schedule or container of another name begins anew:
    what was said about the old one does not fit it.
    """
    merged = dict(base)
    for one, other in RIVALS:
        if over.get(one) is not None:
            merged.pop(other, None)
        elif over.get(other) is not None:
            merged.pop(one, None)
    for key, value in over.items():
        below = base.get(key)
        if isinstance(value, dict) and isinstance(below, dict) and not _another(key, below, value):
            merged[key] = {**below, **value}
        else:
            merged[key] = value
    return merged


def _another(key: str, below: dict[str, Any], value: dict[str, Any]) -> bool:
    short = SHORT.get(key)
    return short is not None and short in value and value[short] != below.get(short, value[short])


@dataclass(frozen=True)
class Draft:
    """A run on its way: its layers, lowest first, and what they come to."""

    layers: tuple[Layer, ...]
    values: dict[str, Any]
    entry: At

    def over(self, *layers: Layer) -> Draft:
        """Lay more layers on top."""
        values = self.values
        for layer in layers:
            values = merge(values, layer.values)
        return Draft((*self.layers, *layers), values, self.entry)

    def at(self, *path: str) -> At:
        """Say where the value in force was said; for one that nobody said, where the run stands."""
        for layer in reversed(self.layers):
            if layer.has(path):
                return layer.locate(path)
        return {"place": self.entry["place"], "key": dotted(path)}

    def is_general(self, field: str) -> bool:
        """Say whether a field was said only for many runs at once, in defaults or on the command line."""
        return all(layer.general for layer in self.layers if layer.has((field,)))
