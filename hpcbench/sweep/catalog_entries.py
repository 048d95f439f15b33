"""Entry types of the catalog of strategies, models and data sets.

The tables are in the packages of what they name (`strategies/__init__.py`, `training/models/__init__.py`,
`training/data/__init__.py`); this module defines their entries, so that names and
options can be checked without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of something that has none."""


class ProcessLayout(Enum):
    """How many training processes a strategy has, and how they share a batch (docs/sweeps.md)."""

    ONE = "one process, one device"
    ONE_MANY_DEVICES = "one process, several devices"
    DATA_PARALLEL = "one process a device, each with its own shard of the batch"
    STAGES = "one process a device, all on one batch"


RefusalCheck = Callable[["RunSpec"], str | None]


def only_for_teaching(spec: RunSpec) -> str | None:
    """Refuse a strategy that is wrong on purpose, unless the run is for teaching."""
    return (
        None if spec.teaching else "it is wrong on purpose. Set teaching: true to run it; it is never ranked"
    )


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """A line of a table: `target` is `package.module:name` of its factory."""

    target: str

    def load(self) -> Any:
        """Import the factory."""
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry(CatalogEntry):
    """One line of the strategy table.

    `check` returns why a run of it is impossible, or None. `parts` is into how many consecutive parts it cuts
    the model, which needs as many blocks. `smoke` scales down what is its own of a run that `--smoke` has
    scaled down.
    """

    processes: ProcessLayout
    options: type = NoOptions
    backends: tuple[str, ...] = ()  # empty: it does not communicate
    updates_alone: Callable[[Mapping[str, Any]], bool] = lambda options: False  # each rank's gradient
    extra_processes: Callable[[Mapping[str, Any]], int] = lambda options: 0  # servers
    torch_free: bool = False
    check: RefusalCheck = lambda spec: None
    parts: Callable[[RunSpec], int] = lambda spec: 1
    smoke: Callable[[RunSpec], RunSpec] = lambda spec: spec


@dataclass(frozen=True, kw_only=True)
class ModelEntry(CatalogEntry):
    """One line of the model table.

    `stems` are the values of `stem` it knows, `input_channels` None: any, `blocks` how many parts it can be
    cut into, `parameters` how many it has at 1,000 classes (tests hold both against the model itself).
    """

    parameters: int
    blocks: int = 1
    stems: tuple[str, ...] = ()
    input_channels: int | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(CatalogEntry):
    """One line of the data set table.

    `train_samples` is None where only the files tell. `check` returns why a run can't have its data that way.
    """

    options: type = NoOptions
    unit: str = "samples"
    channels: int = 3
    image_size: int | None = None
    train_samples: int | None = None
    evaluation_samples: int | None = None
    needs_files: bool = False
    check: RefusalCheck = lambda spec: None


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that a sweep can name."""

    strategies: Mapping[str, StrategyEntry]
    models: Mapping[str, ModelEntry]
    datasets: Mapping[str, DatasetEntry]
