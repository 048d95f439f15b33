"""Checks of single values against the types of the run specification and of option dataclasses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from annotated_types import Ge, Gt, Le, Lt
from pydantic import ConfigDict, TypeAdapter, ValidationError

from hpcbench.errors import InputError, input_error, nearest
from hpcbench.sweep.catalog_entries import Catalog
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.yaml_document import KeyLocation, KeyPath, plain_value

Locate = Callable[[KeyPath], KeyLocation]

_STRICT = ConfigDict(strict=True, allow_inf_nan=False)
_PROBLEMS = {
    "literal_error": "not a known value",
    "finite_number": "NaN and infinity are not values that can be set",
    "predicate_failed": "not a usable value",
    **dict.fromkeys(("greater_than", "greater_than_equal", "less_than", "less_than_equal"), "out of range"),
}
_BOUNDS = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
_KINDS: dict[Any, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}

# Derived fields of a run, and what to set instead.
FOLLOWS = {
    "device": "It follows from resources.gpus_per_node: 0 means CPU",
    "servers": "Set strategy_options: {servers: N}",
    "data_shards": "It follows from strategy and ranks",
    "updates_per_step": "It follows from strategy, its options and ranks",
    "repeat": "Set repeats: N",
    "smoke": "Give --smoke on the command line",
    "declared_id": "Only --smoke sets it",
    "steps_per_epoch": "It follows from the data set and the global batch",
    "processes": "It follows from ranks and servers",
}


def describe_type(kind: Any) -> str:
    """Describe in words what an annotation allows."""
    if get_origin(kind) is Annotated:
        base, *constraints = get_args(kind)
        texts = [item.documentation for item in constraints if hasattr(item, "documentation")]
        bounds = [
            f"{_BOUNDS[type(item)]} {getattr(item, type(item).__name__.lower()):.15g}"
            for item in constraints
            if type(item) in _BOUNDS
        ]
        return texts[0] if texts else ", ".join(filter(None, (describe_type(base), " and ".join(bounds))))
    if get_origin(kind) is Literal:
        return ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (UnionType, Union):
        return " or ".join(describe_type(part) for part in get_args(kind) if part is not NoneType)
    return _KINDS.get(kind, str(kind))


def did_you_mean(word: object, candidates: Iterable[str]) -> str | None:
    """Return a hint that names the candidate that was most likely meant; `lr` means `optimizer.lr`."""
    known = tuple(candidates)
    nested = [path for path in known if path.endswith(f".{word}")]
    guess = nested[0] if nested else nearest(str(word), known)
    return f"Did you mean {guess}?" if guess else None


@dataclass(frozen=True)
class LeafSchema:
    """One value."""

    kind: Any

    @cached_property
    def allowed(self) -> str:
        """What is allowed, in words."""
        return describe_type(self.kind)

    @cached_property
    def _adapter(self) -> TypeAdapter[Any]:
        return TypeAdapter(self.kind, config=_STRICT)

    def check(self, value: Any, locate: Locate, path: KeyPath) -> Any:
        """Return the value converted to its type (an integer for a number becomes one); else InputError."""
        try:
            return self._adapter.validate_python(value)
        except ValidationError as error:
            problem = _PROBLEMS.get(error.errors()[0]["type"], "not of the right type")
        raise input_error(
            problem,
            **locate(path),
            found="null" if value is None else value,
            allowed=self.allowed,
            hint=self._hint(value),
        )

    def accepts(self, value: Any) -> bool:
        """Return whether `check` accepts the value."""
        try:
            self._adapter.validate_python(value)
        except ValidationError:
            return False
        return True

    def _hint(self, value: Any) -> str | None:
        words = list(map(str, _literals(self.kind)))
        if words:
            return did_you_mean(value, words)
        if self.kind is bool and str(value).lower() in {"yes", "no", "on", "off"}:
            return "Write true or false"
        if isinstance(value, str) and _unquoted_fits(self, value):
            return "Write it without quotes"
        if self.accepts(str(value)):
            return "Put it in quotes"
        return None


def _unquoted_fits(leaf: LeafSchema, text: str) -> bool:
    try:
        return leaf.accepts(plain_value(text))
    except ValueError:
        return False


def _literals(kind: Any) -> tuple[Any, ...]:
    if get_origin(kind) is Literal:
        return get_args(kind)
    return tuple(word for part in get_args(kind) for word in _literals(part))


@dataclass(frozen=True)
class MapSchema:
    """A map with known keys. A single word in place of the map is the value of the key `short`."""

    children: Mapping[str, SchemaNode]
    short: str | None = None

    def check(self, value: Any, locate: Locate, path: KeyPath) -> dict[str, Any]:
        """Check every value in the map; a key that is not set stays unset."""
        if self.short is not None and isinstance(value, str):
            value = {self.short: self.children[self.short].check(value, locate, path)}
        if not isinstance(value, dict):
            allowed = f"a map with {', '.join(self.children)}"
            raise input_error(
                "not a map", **locate(path), found="null" if value is None else value, allowed=allowed
            )
        for key in value:
            if key not in self.children:
                raise unknown_key(key, self, locate, path)
        return {key: self.children[key].check(item, locate, (*path, key)) for key, item in value.items()}

    def find(self, path: tuple[str, ...]) -> SchemaNode | None:
        """Return the schema at a dotted path; every path inside options has an `OptionsSchema`."""
        node: SchemaNode | None = self
        for part in path:
            if isinstance(node, OptionsSchema):
                return node
            node = node.children.get(part) if isinstance(node, MapSchema) else None
        return node

    def leaves(self, prefix: str = "") -> dict[str, LeafSchema]:
        """Return the leaves by dotted path."""
        found: dict[str, LeafSchema] = {}
        for key, node in self.children.items():
            if isinstance(node, LeafSchema):
                found[prefix + key] = node
            elif isinstance(node, MapSchema):
                found |= node.leaves(f"{prefix}{key}.")
        return found


@dataclass(frozen=True)
class OptionsSchema:
    """A map whose keys depend on the strategy or the data set, and are checked once these are known."""

    def check(self, value: Any, locate: Locate, path: KeyPath) -> dict[str, Any]:
        """Check that it is a map."""
        if not isinstance(value, dict):
            raise input_error("not a map", **locate(path), found="null" if value is None else value)
        return value


SchemaNode = LeafSchema | MapSchema | OptionsSchema


def unknown_key(key: str, node: MapSchema, locate: Locate, path: KeyPath) -> InputError:
    """Return the message for a key that is not in the map."""
    follows = FOLLOWS.get(key) if "strategy" in node.children else None
    guess = follows or did_you_mean(key, node.children) or did_you_mean(key, node.leaves())
    return input_error(
        "unknown key", **locate((*path, key)), found=key, allowed=", ".join(node.children), hint=guess
    )


def map_of(kind: Any, *, short: str | None = None) -> MapSchema:
    """Return the schema of a dataclass."""
    hints = get_type_hints(kind, include_extras=True)
    return MapSchema({field.name: LeafSchema(hints[field.name]) for field in dataclasses.fields(kind)}, short)


SHORT_FORMS = {"optimizer": "name", "schedule": "name", "container": "runtime"}


def run_schema(catalog: Catalog, *, stored: bool = False) -> MapSchema:
    """Return the schema of a run in a sweep file, or of a stored specification with its derived fields."""
    hints = get_type_hints(RunSpec, include_extras=True)
    names = {"strategy": catalog.strategies, "model": catalog.models, "dataset": catalog.datasets}
    children: dict[str, SchemaNode] = {}
    for name, kind in hints.items():
        if name in names:
            children[name] = LeafSchema(Literal[tuple(names[name])])
        elif name.endswith("_options"):
            children[name] = OptionsSchema()
        elif dataclasses.is_dataclass(kind):
            children[name] = map_of(kind, short=SHORT_FORMS.get(name))
        elif stored or name not in FOLLOWS:
            children[name] = LeafSchema(kind)
    if not stored:
        children["global_batch"] = LeafSchema(Annotated[int, Ge(1), Le(1_000_000_000)] | None)
        children["repeats"] = LeafSchema(Annotated[int, Ge(1), Le(1_000)])
    return MapSchema(children)
