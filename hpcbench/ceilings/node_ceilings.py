"""The ceilings of nodes and what they say about a run: compute, input, link, copies, matrix rate."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TypeVar

from hpcbench.ceilings.ceiling_records import (
    Ceiling,
    ComputeCeiling,
    CopyCheck,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
    MeasuredCeiling,
    TransferCeiling,
    newest_ceilings,
)
from hpcbench.ceilings.compute_scaling import ComputeTime, compute_time, count_distance
from hpcbench.ceilings.link_fit import AlphaBetaLine, LinkFit, fit_link
from hpcbench.ceilings.measurement_points import local_devices, ranks_per_node
from hpcbench.sweep.run_spec import RunSpec

CeilingType = TypeVar("CeilingType", bound=Ceiling)
CPU_DEVICE = "cpu"


@dataclass(frozen=True, kw_only=True)
class InputTime:
    """What the loader needs for a step of all ranks. `serial`: nothing of it while the model computes."""

    seconds: float
    serial: bool
    assumed: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LinkTime:
    """A fitted link, carried over to another number of ranks by the ring formulas where that is needed."""

    fit: LinkFit
    alpha_factor: float = 1.0
    bytes_factor: float = 1.0
    assumed: tuple[str, ...] = ()

    def seconds(self, size_bytes: float) -> float:
        """Return the mean time of one operation."""
        return self.latency_s(size_bytes) + self.bytes_s(size_bytes)

    def latency_s(self, size_bytes: float) -> float:
        """Return the part of it that does not depend on the size."""
        return self.fit.tail * self.alpha_factor * self._line(size_bytes).alpha_s

    def bytes_s(self, size_bytes: float) -> float:
        """Return the part of it that does."""
        bandwidth = self._line(size_bytes).bandwidth_bytes_s
        return self.fit.tail * self.bytes_factor * size_bytes / bandwidth

    def _line(self, size_bytes: float) -> AlphaBetaLine:
        return self.fit.line(size_bytes)


@dataclass(frozen=True)
class Ceilings:
    """The newest ceilings of one or several nodes. `blocks` is into how many parts each model can be cut."""

    records: tuple[MeasuredCeiling, ...] = ()
    blocks: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[MeasuredCeiling], blocks: Mapping[str, int] | None = None) -> Ceilings:
        """Return the ceilings that count among all that were ever measured."""
        return cls(tuple(newest_ceilings(records)), dict(blocks or {}))

    def __bool__(self) -> bool:
        return bool(self.records)

    def at(self, host: str | None, device: str | None) -> Ceilings:
        """Return those of a host; of a host that was not measured those of its kind of device."""
        own = self.own(host, device)
        return own or Ceilings(tuple(r for r in self.records if _is_of_device(r, device)), self.blocks)

    def own(self, host: str | None, device: str | None) -> Ceilings:
        """Return those of a host."""
        kept = tuple(r for r in self.records if r.host == host and _is_of_device(r, device))
        return Ceilings(kept, self.blocks)

    def each(self, kind: type[CeilingType]) -> list[CeilingType]:
        """Return the ceilings of a kind."""
        return [r.ceiling for r in self.records if isinstance(r.ceiling, kind)]

    def for_device(self, spec: RunSpec) -> Ceilings:
        """Return those that a run's kind of device can have."""
        kept = [r for r in self.records if (r.ceiling.device == CPU_DEVICE) == (spec.device == CPU_DEVICE)]
        return Ceilings(tuple(kept), self.blocks)

    def compute(self, spec: RunSpec, *, batch: int | None = None) -> ComputeTime | None:
        """Return what a device needs to train on a run's batch, or on another one, alone.

        None: this model was not measured on such images at this precision.
        """
        alike = [c for c in self.for_device(spec).each(ComputeCeiling) if _same_model(c, spec)]
        same = [c for c in alike if c.accumulation == spec.accumulation]
        whole = batch or spec.batch_size
        cpu, blocks = spec.device == CPU_DEVICE, self.blocks.get(spec.model, 1)
        if same:
            return compute_time(same, whole, local_devices(spec), cpu=cpu, blocks=blocks)
        whole_batches = [c for c in alike if c.accumulation == 1]
        if not whole_batches:
            return None
        part = whole // spec.accumulation
        found = compute_time(whole_batches, part, local_devices(spec), cpu=cpu, blocks=blocks)
        return found.repeated(spec.accumulation)

    def input(self, spec: RunSpec) -> InputTime | None:
        """Return what the loader of a node needs for a step of all its ranks; None: never measured.

        Ranks that share one batch load it each. With other loader processes, or other batches, a loader is
        another one: what is taken from there is assumed.
        """
        alike = [
            c for c in self.for_device(spec).each(InputCeiling)
            if (c.dataset, c.cache) == (spec.dataset, spec.cache)
            and json.loads(c.dataset_options) == spec.dataset_options
        ]  # fmt: skip
        if not alike:
            return None
        ranks, batch, workers = ranks_per_node(spec), spec.batch_size, spec.input.workers
        found = min(
            alike,
            key=lambda c: (
                workers not in (None, c.workers),
                count_distance(c.ranks, ranks),
                count_distance(c.batch, batch),
            ),
        )
        same = [c for c in alike if (c.ranks, c.batch) == (found.ranks, found.batch)]
        # Where a run does not say its number of processes and several were measured, it is one of them.
        is_told = workers == found.workers or (workers is None and len(same) == 1)
        guesses = (
            (f"input as of {found.ranks} ranks", found.ranks != ranks),
            (f"input as of batches of {found.batch}", found.batch != batch),
            (f"input as of {found.workers} loader processes", not is_told),
        )
        assumed = tuple(what for what, is_so in guesses if is_so)
        seconds = ranks * batch / found.images_per_s
        return InputTime(seconds=seconds, serial=found.workers == 0, assumed=assumed)

    def link(self, spec: RunSpec, operation: str, ranks: int) -> LinkTime | None:
        """Return the link of a run for an operation among so many ranks; None: never measured."""
        alike = [
            c for c in self.for_device(spec).each(LinkCeiling)
            if (c.backend, c.operation) == (spec.backend or "nccl", operation) and c.ranks > 1
        ]  # fmt: skip
        if not alike:
            return None
        nodes = spec.resources.nodes
        found = min(alike, key=lambda c: (count_distance(c.nodes, nodes), count_distance(c.ranks, ranks)))
        assumed = [] if found.nodes == nodes else [f"{operation} as over {found.nodes} nodes"]
        alpha, size = 1.0, 1.0
        if operation != "send" and found.ranks != ranks:
            assumed.append(f"{operation} as of {found.ranks} ranks")
            alpha, size = _ring_factors(operation, found.ranks, ranks)
        return LinkTime(
            fit=_cached_fit(_LinkKey(found)), alpha_factor=alpha, bytes_factor=size, assumed=tuple(assumed)
        )

    def transfer(self, spec: RunSpec) -> LinkFit | None:
        """Return the copies from host memory to the device, page-locked where that was measured."""
        found = sorted(self.for_device(spec).each(TransferCeiling), key=lambda c: not c.pinned)
        return fit_link(found[0]) if found else None

    def matrix_flop_per_s(self, spec: RunSpec) -> float | None:
        """Return the measured matrix rate of one device at the run's precision."""
        alike = [c for c in self.for_device(spec).each(MatrixCeiling) if c.precision == spec.precision]
        found = min(alike, key=lambda c: count_distance(c.ranks, local_devices(spec)), default=None)
        return found.flop_per_s if found else None

    def broken_copies(self) -> list[str]:
        """Return the pairs of devices between which bytes do not arrive as they were."""
        return [pair for check in self.each(CopyCheck) for pair in check.broken]


def _is_of_device(record: MeasuredCeiling, device: str | None) -> bool:
    return device is None or record.ceiling.device == device


def _same_model(ceiling: ComputeCeiling, spec: RunSpec) -> bool:
    """Say whether a ceiling is of the run's network, images and arithmetic."""
    return (
        (ceiling.model, ceiling.stem, ceiling.dataset, ceiling.precision)
        == (spec.model, spec.stem, spec.dataset, spec.precision)
        and (ceiling.channels_last, ceiling.compiled) == (spec.channels_last, spec.compile)
        and json.loads(ceiling.dataset_options) == spec.dataset_options
    )


@dataclass(frozen=True)
class _LinkKey:
    """A link as the key of a table of fits: fitting takes longer than looking up."""

    link: LinkCeiling

    def __hash__(self) -> int:
        return hash((self.link.backend, self.link.operation, self.link.ranks, self.link.nodes))


@cache
def _cached_fit(key: _LinkKey) -> LinkFit:
    return fit_link(key.link)


def _ring_factors(operation: str, measured: int, ranks: int) -> tuple[float, float]:
    """Return by what alpha and bytes / bandwidth change with the number of ranks.

    Ring all-reduce: t = 2(n-1) a + 2(n-1)/n S/B (docs/methodology.md, Formulas). Broadcast: as many rounds
    as a binomial tree has, log2 n, each with the whole message (Thakur et al. 2005).
    """
    if operation == "all_reduce":
        return (ranks - 1) / (measured - 1), ((ranks - 1) / ranks) / ((measured - 1) / measured)
    rounds = math.ceil(math.log2(ranks)) / math.ceil(math.log2(measured))
    return rounds, rounds
