"""Which ceilings a run needs: the models, loaders, links and matrix products to measure. Imports no torch."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import Any

from hpcbench.ceilings.ceiling_records import (
    Ceiling,
    ComputeCeiling,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
)
from hpcbench.strategies.strategy_registry import find_strategy
from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class MeasurementPoint:
    """Something to measure; its fields are those that name it in the ceiling's record."""

    def measured_by(self, ceiling: Ceiling) -> bool:
        """Return whether a ceiling is the measurement of this."""
        return all(getattr(ceiling, name) == value for name, value in vars(self).items())


@dataclass(frozen=True, kw_only=True)
class ComputePoint(MeasurementPoint):
    """A model trained alone on each of `ranks` devices at once."""

    model: str
    stem: str | None
    dataset: str
    dataset_options: str
    precision: str
    batch: int
    accumulation: int
    channels_last: bool
    compiled: bool
    ranks: int


@dataclass(frozen=True, kw_only=True)
class InputPoint(MeasurementPoint):
    """The loader alone on each of `ranks` processes at once; `workers` None: as the cores of a rank say."""

    dataset: str
    dataset_options: str
    cache: str
    workers: int | None
    batch: int
    ranks: int

    def measured_by(self, ceiling: Ceiling) -> bool:
        """Return whether a ceiling is the measurement of this, with any workers where none were said."""
        workers = getattr(ceiling, "workers", None) if self.workers is None else self.workers
        return MeasurementPoint.measured_by(replace(self, workers=workers), ceiling)


@dataclass(frozen=True, kw_only=True)
class LinkPoint(MeasurementPoint):
    """The collectives of a backend between `ranks` processes on `nodes`."""

    backend: str
    ranks: int
    nodes: int


@dataclass(frozen=True, kw_only=True)
class MatrixPoint(MeasurementPoint):
    """Matrix products on each of `ranks` devices at once."""

    precision: str
    ranks: int


CEILING_OF_POINT: dict[type[MeasurementPoint], type[Ceiling]] = {
    ComputePoint: ComputeCeiling,
    InputPoint: InputCeiling,
    LinkPoint: LinkCeiling,
    MatrixPoint: MatrixCeiling,
}


def ranks_per_node(spec: RunSpec) -> int:
    """Return the training ranks of a run's fullest node."""
    return math.ceil(spec.ranks / spec.resources.nodes)


def local_devices(spec: RunSpec) -> int:
    """Return how many devices compute at once on a run's fullest node; on a CPU each rank is one."""
    return ranks_per_node(spec) * (spec.devices if spec.device == "cuda" else 1)


def canonical_options(options: dict[str, Any]) -> str:
    """Return options as a record names them."""
    return json.dumps(options, sort_keys=True, separators=(",", ":"))


def compute_points(spec: RunSpec) -> list[ComputePoint]:
    """Return the model alone on one device, and on as many at once as the run uses of a node.

    What a process cuts its batch into for several devices is measured in those pieces as well.
    """
    wanted = {(spec.batch_size, 1): None, (spec.batch_size, local_devices(spec)): None}
    if find_strategy(spec.strategy).splits_batch_on_devices and spec.batch_size >= spec.devices:
        wanted[spec.batch_size // spec.devices, local_devices(spec)] = None
    return [
        ComputePoint(
            model=spec.model,
            stem=spec.stem,
            dataset=spec.dataset,
            dataset_options=canonical_options(spec.dataset_options),
            precision=spec.precision,
            batch=batch,
            accumulation=min(spec.accumulation, batch),
            channels_last=spec.channels_last,
            compiled=spec.compile,
            ranks=ranks,
        )
        for batch, ranks in wanted
    ]


def input_points(spec: RunSpec) -> list[InputPoint]:
    """Return the loader of all local ranks at once.

    Not measured: data that is copied to the node or decoded as a whole before the run, because the probe
    would take as long as that does.
    """
    decoded_first = spec.cache != "none" and spec.dataset_options.get("decoded_size") is not None
    if spec.input.stage or spec.input.disk_cache or decoded_first:
        return []
    return [
        InputPoint(
            dataset=spec.dataset,
            dataset_options=canonical_options(spec.dataset_options),
            cache=spec.cache,
            workers=spec.input.workers,
            batch=spec.batch_size,
            ranks=ranks_per_node(spec),
        )
    ]


def link_points(spec: RunSpec) -> list[LinkPoint]:
    """Return the link between the training ranks; with servers at least that between two processes."""
    ranks = max(spec.ranks, 2) if spec.servers else spec.ranks
    if spec.backend is None or ranks == 1:
        return []
    return [LinkPoint(backend=spec.backend, ranks=ranks, nodes=min(spec.resources.nodes, ranks))]


def matrix_points(spec: RunSpec) -> list[MatrixPoint]:
    """Return matrix products in the run's precision, alone and on all its devices of a node at once."""
    counts = dict.fromkeys((1, local_devices(spec)))
    return [MatrixPoint(precision=spec.precision, ranks=ranks) for ranks in counts]


def points_of(spec: RunSpec) -> list[MeasurementPoint]:
    """Return all that has to be measured for a run."""
    return [*compute_points(spec), *input_points(spec), *link_points(spec), *matrix_points(spec)]
