"""Classes: the runs that learn the same thing, so that a ranking may compare them, and their short names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from hpcbench.config.spec import NOT_IDENTITY, NOT_RECIPE, RunSpec


def label_classes(specs: Iterable[RunSpec]) -> dict[str, str]:
    """Return a readable label for each recipe, such as `digits/smallconv/gb64`.

    Where recipes share data set, model and global batch, what else differs between them is added
    (`digits/smallconv/gb64/epochs=5`).
    """
    one_of = {spec.recipe: spec for spec in specs}
    alike: dict[str, dict[str, RunSpec]] = defaultdict(dict)
    for recipe, spec in sorted(one_of.items()):
        alike[_base(spec)][recipe] = spec
    return {recipe: label for base, group in alike.items() for recipe, label in _labels(base, group).items()}


def _base(spec: RunSpec) -> str:
    marks = [mark for mark in ("smoke", "teaching") if getattr(spec, mark)]
    model = f"{spec.model}-{spec.stem}" if spec.stem else spec.model
    return "/".join([*marks, spec.dataset, model, f"gb{spec.global_batch}"])


def _labels(base: str, group: dict[str, RunSpec]) -> dict[str, str]:
    if len(group) == 1:
        return dict.fromkeys(group, base)
    learnt = {recipe: _learnt(spec) for recipe, spec in group.items()}
    keys = sorted({key for fields in learnt.values() for key in fields})
    differing = [key for key in keys if len({repr(fields.get(key)) for fields in learnt.values()}) > 1]
    return {
        recipe: "/".join([base, ",".join(f"{key}={fields.get(key)}" for key in differing)])
        for recipe, fields in learnt.items()
    }


def _learnt(spec: RunSpec) -> dict[str, Any]:
    flat = _flatten(spec.to_json())
    left_out = (*NOT_IDENTITY, *NOT_RECIPE)
    return {
        key: value for key, value in flat.items() if key not in left_out and key.split(".")[0] not in left_out
    }


def _flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
