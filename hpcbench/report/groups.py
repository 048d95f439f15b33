"""The groups of a sweep, from the resolved `sweep.yaml` of a results folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from hpcbench.errors import SourcePlace, input_error
from hpcbench.sweep.run_spec import Group


def read_groups(path: Path) -> tuple[Group, ...]:
    """Return the groups that a resolved sweep lists; none where there is no such file.

    Raises InputError for a file that is no resolved sweep.
    """
    if not path.exists():
        return ()
    try:
        sweep = yaml.safe_load(path.read_bytes()) or {}
        return tuple(_group(item) for item in sweep.get("groups") or ())
    except (yaml.YAMLError, OSError, UnicodeError, AttributeError, KeyError, TypeError) as error:
        raise input_error(
            "the groups of this sweep cannot be read",
            place=SourcePlace(str(path)),
            key="groups",
            found=str(error),
            allowed="a list of maps with id, title, factor and runs",
        ) from error


def _group(item: dict[str, Any]) -> Group:
    factor = item["factor"]
    factors = (factor,) if isinstance(factor, str) else tuple(str(each) for each in factor)
    runs = tuple(str(run) for run in item["runs"])
    return Group(id=str(item["id"]), title=str(item["title"]), factor=factors, runs=runs)
