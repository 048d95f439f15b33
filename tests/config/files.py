"""Sweep files for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hpcbench.catalog import CATALOG
from hpcbench.errors import InputError
from hpcbench.sweep.catalog_entries import Catalog, ProcessLayout
from hpcbench.sweep.run_spec import Sweep
from hpcbench.sweep.sweep_loading import load_sweep

HEAD = "version: 1\nname: s\nresources: {gpus_per_node: 0}\n"
ON_TWO_GPUS = "version: 1\nname: s\nresources: {gpus_per_node: 2}\n"
RUN = "runs:\n  - {strategy: ddp, ranks: 2}\n"

# Strategies of every process layout, with existing options: the rules of a layout are tested without the
# strategies that use it.
_DDP = CATALOG.strategies["ddp"]
KINDS = replace(
    CATALOG,
    strategies={
        **CATALOG.strategies,
        "dp": replace(CATALOG.strategies["single_gpu"], processes=ProcessLayout.ONE_MANY_DEVICES),
        "pipeline": replace(_DDP, processes=ProcessLayout.STAGES),
        "ps": replace(_DDP, count_servers=lambda options: 1),
        "gloo_only": replace(_DDP, check=lambda spec: "no nccl" if spec.backend == "nccl" else None),
        "picky": replace(_DDP, check=lambda spec: "only with three ranks" if spec.ranks != 3 else None),
    },
)


def write(folder: Path, text: str | bytes, name: str = "s.yaml") -> Path:
    """Write a file and return its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load(folder: Path, text: str, catalog: Catalog = CATALOG, **arguments: Any) -> Sweep:
    """Load a sweep from its text."""
    return load_sweep([write(folder, text)], catalog, **arguments)


def as_yaml(**run: Any) -> str:
    """Write a sweep of one entry on CPUs."""
    return HEAD + yaml.safe_dump({"runs": [run]}, sort_keys=False)


def names(sweep: Sweep) -> list[str]:
    """Return the names in order, once each."""
    return list(dict.fromkeys(run.name for run in sweep.runs))


def refusal(folder: Path, text: str | bytes, catalog: Catalog = CATALOG, **arguments: Any) -> str:
    """Return the message that a sweep is refused with."""
    path = write(folder, text)
    with pytest.raises(InputError) as caught:
        load_sweep([path], catalog, **arguments)
    assert caught.value.exit_code == 2
    return str(caught.value).replace(f"{folder}/", "")
