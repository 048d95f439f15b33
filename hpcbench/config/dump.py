"""A resolved sweep as YAML, for the results folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import yaml

from hpcbench.config.document import FLOAT, RESOLVED_HEADER
from hpcbench.config.schema import FOLLOWS
from hpcbench.config.sections import VERSION
from hpcbench.config.spec import RunSpec, Sweep

_BASE: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


class _Dumper(_BASE):  # type: ignore[misc]
    """Writes no aliases, and quotes text that our reader or one of YAML 1.1 would take for something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("+-.0123456789"))


def dump_sweep(sweep: Sweep) -> str:
    """Write a sweep as it was resolved; `load_sweep` reads it back to the same run ids.

    Every run is written out, what all have in common under `defaults`. With `--smoke` these are the declared
    runs, and `smoke` says for how many GPUs they are to be scaled down.
    """
    runs = list(_first_repeats(sweep))
    common = {
        key: value
        for key, value in (runs[0] if runs else {}).items()
        if key != "name" and all(repr(run.get(key)) == repr(value) for run in runs)
    }
    content = {
        "version": VERSION,
        "name": sweep.name,
        **({} if sweep.smoke_gpus is None else {"smoke": sweep.smoke_gpus}),
        **({} if sweep.pack is True else {"pack": sweep.pack}),
        **({"data": sweep.data} if sweep.data else {}),
        "defaults": common,
        "runs": [{key: value for key, value in run.items() if key not in common} for run in runs],
        "groups": [
            {"id": each.id, "title": each.title, "factor": list(each.factor), "runs": list(each.runs)}
            for each in sweep.groups
        ],
    }
    body = yaml.dump(
        content, Dumper=_Dumper, sort_keys=False, default_flow_style=None, allow_unicode=True, width=1_000_000
    )
    origin = " ".join(", ".join(sweep.files).split())
    return f"{RESOLVED_HEADER}\n# From: {origin}\n{body}"


def _first_repeats(sweep: Sweep) -> Iterable[dict[str, Any]]:
    declared = [sweep.declared.get(spec.run_id, spec) for spec in sweep.runs]
    repeats: dict[str, int] = {}
    for spec in declared:
        repeats[spec.name] = repeats.get(spec.name, 0) + 1
    return (_fields(spec, repeats[spec.name]) for spec in declared if spec.repeat == 0)


def _fields(spec: RunSpec, repeats: int) -> dict[str, Any]:
    """Return what a sweep file would say to mean this run and nothing else."""
    said = {key: value for key, value in dataclasses.asdict(spec).items() if key not in FOLLOWS}
    said["repeats"] = repeats
    if spec.container.image is None:
        said["container"].pop("image")
    return {key: value for key, value in said.items() if value is not None and value != {}}
