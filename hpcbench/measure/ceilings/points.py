"""What has to be measured for a run, and whether it has been. Imports no torch: the job itself asks."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hpcbench.config.spec import RunSpec, limit_of
from hpcbench.records.ceilings import Ceiling, ComputeCeiling, InputCeiling, LinkCeiling, MatrixCeiling

# Of a strategy of one process that splits each batch over its devices.
SPLITS_BATCH = ("dp",)
# A probe may take half as long as a run, within these bounds: a job's time is made for its runs.
SHORTEST_LIMIT_S, LONGEST_LIMIT_S = 60, 600


@dataclass(frozen=True, kw_only=True)
class Point:
    """Something to measure; its fields are those that name it in the ceiling's record."""

    def measured_by(self, ceiling: Ceiling) -> bool:
        """Return whether a ceiling is the measurement of this."""
        return all(getattr(ceiling, name) == value for name, value in vars(self).items())


@dataclass(frozen=True, kw_only=True)
class ComputePoint(Point):
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
class InputPoint(Point):
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
        return Point.measured_by(replace(self, workers=workers), ceiling)


@dataclass(frozen=True, kw_only=True)
class LinkPoint(Point):
    """The collectives of a backend between `ranks` processes on `nodes`."""

    backend: str
    ranks: int
    nodes: int


@dataclass(frozen=True, kw_only=True)
class MatrixPoint(Point):
    """Matrix products on each of `ranks` devices at once."""

    precision: str
    ranks: int


KINDS: dict[type[Point], type[Ceiling]] = {
    ComputePoint: ComputeCeiling,
    InputPoint: InputCeiling,
    LinkPoint: LinkCeiling,
    MatrixPoint: MatrixCeiling,
}


def local_ranks(spec: RunSpec) -> int:
    """Return the training ranks of a run's fullest node."""
    return math.ceil(spec.ranks / spec.resources.nodes)


def local_devices(spec: RunSpec) -> int:
    """Return how many devices compute at once on a run's fullest node; on a CPU each rank is one."""
    return local_ranks(spec) * (spec.devices if spec.device == "cuda" else 1)


def options_text(options: dict[str, Any]) -> str:
    """Return options as a record names them."""
    return json.dumps(options, sort_keys=True, separators=(",", ":"))


def compute_points(spec: RunSpec) -> list[ComputePoint]:
    """Return the model alone on one device, and on as many at once as the run uses of a node.

    What a process cuts its batch into for several devices is measured in those pieces as well.
    """
    wanted = {(spec.batch_size, 1): None, (spec.batch_size, local_devices(spec)): None}
    if spec.strategy in SPLITS_BATCH and spec.batch_size >= spec.devices:
        wanted[spec.batch_size // spec.devices, local_devices(spec)] = None
    return [
        ComputePoint(
            model=spec.model,
            stem=spec.stem,
            dataset=spec.dataset,
            dataset_options=options_text(spec.dataset_options),
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
            dataset_options=options_text(spec.dataset_options),
            cache=spec.cache,
            workers=spec.input.workers,
            batch=spec.batch_size,
            ranks=local_ranks(spec),
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


def points_of(spec: RunSpec) -> list[Point]:
    """Return all that has to be measured for a run."""
    return [*compute_points(spec), *input_points(spec), *link_points(spec), *matrix_points(spec)]


def is_measured(spec: RunSpec, ceilings: Sequence[Ceiling]) -> bool:
    """Return whether all of a run's ceilings are among those of a node."""
    of_device = [each for each in ceilings if (each.device == "cpu") == (spec.device == "cpu")]
    return all(
        any(isinstance(each, KINDS[type(point)]) and point.measured_by(each) for each in of_device)
        for point in points_of(spec)
    )


def distinct(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Return one run for each set of ceilings: repeats, for example, share theirs."""
    found = {(spec.device, *points_of(spec)): spec for spec in specs}
    return list(found.values())


def probe_spec(specs: Sequence[RunSpec]) -> RunSpec:
    """Return the run that is no training: as many processes as the largest of some runs has on its nodes.

    The runs have the same device, nodes, image and data. It is started, bound and ended as they are.
    """
    nodes = specs[0].resources.nodes
    processes = nodes * max(max(local_devices(spec), 2 if spec.servers else 1) for spec in specs)
    resources = specs[0].resources
    limit_s = min(LONGEST_LIMIT_S, max(SHORTEST_LIMIT_S, resources.time_s // 2))
    return replace(
        specs[0],
        name="probe",
        repeat=0,
        backend="gloo" if processes > 1 else None,
        ranks=processes,
        data_shards=processes,
        devices=1,
        servers=0,
        strategy_options={},
        checkpoint="none",
        save_weights=False,
        resources=dataclasses.replace(resources, time=limit_of(limit_s)),
    )
