"""`strategy_options` and `dataset_options`: checked against the dataclass that the catalog names."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

from hpcbench.config.document import At, KeyPath
from hpcbench.config.layers import Draft
from hpcbench.config.schema import Map, did_you_mean, map_of
from hpcbench.errors import input_error


@cache
def _schema(kind: type) -> Map:
    return map_of(kind)


def options_of(draft: Draft, field: str, kind: type, owner: str) -> dict[str, Any]:
    """Return the options in full, defaults filled in; raises InputError where one does not fit."""
    said = draft.values.get(field) or {}
    schema = _schema(kind)

    def locate(path: KeyPath) -> At:
        return draft.at(*map(str, path))

    for key in said:
        if key not in schema.children:
            known = ", ".join(schema.children)
            raise input_error(
                f"{owner} has no such option",
                **locate((field, key)),
                found=key,
                allowed=known or "no options at all",
                hint=did_you_mean(key, schema.children),
            )
    checked = {key: schema.children[key].check(value, locate, (field, key)) for key, value in said.items()}
    return dataclasses.asdict(kind(**checked))
