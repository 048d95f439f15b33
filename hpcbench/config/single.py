"""One run by itself: `hpcbench run [SPEC.yaml] --set ...`, or the spec.json of a run's folder."""

from __future__ import annotations

from dataclasses import fields as dataclass_fields
from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

from hpcbench.config.catalog import Catalog
from hpcbench.config.document import At, Document, read_document
from hpcbench.config.layers import Layer, layer_of
from hpcbench.config.plan import Planner
from hpcbench.config.schema import FOLLOWS, Leaf, Map, Node, run_schema
from hpcbench.config.sections import VERSION, as_map
from hpcbench.config.spec import RunSpec
from hpcbench.errors import input_error

COMMAND_LINE = "the command line"
_STORED = ("run_id", "spec", "declared", "data", "cores_shared_by")
_OF_SWEEPS = ("runs", "grid", "exclude", "include", "groups")


def read_run(file: Path | None, planner: Planner) -> RunSpec:
    """Return the run of a file with the planner's settings laid over it; no file: the settings alone."""
    document = Document(COMMAND_LINE, {}) if file is None else read_document(file)
    value = document.value
    if isinstance(value, dict) and "spec" in value:
        return _stored(document, planner)
    schema = planner.fields.schema
    keys = ("version", *schema.children)
    hints = dict.fromkeys(_OF_SWEEPS, "This belongs to a sweep: use hpcbench submit")
    said = dict(
        as_map(document, "a run is a map of its fields", keys, value=value, hints={**FOLLOWS, **hints})
    )
    if said.pop("version", VERSION) != VERSION:
        raise input_error(
            "this hpcbench reads another version", **document.at(("version",)), allowed=str(VERSION)
        )
    return planner.single(layer_of(schema, document, (), said), document.at(()))


def _stored(document: Document, planner: Planner) -> RunSpec:
    """Read a run as it was written into its folder; settings change it, and what follows from them."""
    stored = as_map(document, "a stored run is a map", _STORED)["spec"]

    def locate(path: Any) -> At:
        return document.at(("spec", *path))

    checked = stored_schema(planner.resolver.catalog).check(stored, locate, ())
    for key in ("name", "strategy"):
        if key not in checked:
            raise input_error(f"a stored run needs {key}", **locate(()))
    spec = RunSpec.from_json(checked)
    if not planner.settings:
        return spec
    said = {key: value for key, value in checked.items() if key not in FOLLOWS and value is not None}
    again = planner.single(Layer(said, locate, general=True), locate(()))
    kept = {key: getattr(spec, key) for key in ("repeat", "smoke", "declared_id", "steps_per_epoch")}
    return replace(again, **kept)


def stored_schema(catalog: Catalog) -> Map:
    """Return the schema of a whole specification, with what follows from other fields."""
    hints = get_type_hints(RunSpec, include_extras=True)
    known = run_schema(catalog).children
    children: dict[str, Node] = {
        each.name: known.get(each.name, Leaf(hints[each.name])) for each in dataclass_fields(RunSpec)
    }
    return Map(children)
