"""What a node can do at most: the lines of `ceilings/<host>.jsonl` in a results folder, or of `probe
--out`.

A ceiling is measured, never looked up (MEASURING rule 8). Each line is one flat JSON object that begins with
`ceiling` (the class name in snake case), `schema`, `host` and `time_ns`; lines are appended, and of two with
the same key the later one counts. Raw times are kept, so that fits and predictions can be made again.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import ClassVar

SCHEMA = 1
HEADER = ("ceiling", "schema", "host", "time_ns")


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """An upper bound that was measured on one node. `device` is the device's name as in the environment."""

    kind: ClassVar[str] = "ceiling"
    device: str

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@dataclass(frozen=True, kw_only=True)
class ComputeCeiling(Ceiling):
    """One device trains this model alone: eight rotating random batches, no loader, no exchange.

    `ranks` processes did so at once without talking to each other, as they share a CPU's cores and a board's
    power; rates are of one of them (the median). `update_s` is the optimizer's part of a step.
    """

    model: str
    stem: str | None = None
    dataset: str  # whose image shape and classes the model has
    dataset_options: str = "{}"  # as JSON, keys sorted: images may be of several sizes
    precision: str
    batch: int  # per device
    accumulation: int = 1
    channels_last: bool
    compiled: bool
    ranks: int
    images_per_s: float  # of one device
    step_s: list[float]
    forward_backward_s: float
    update_s: float
    flop_per_image: int  # counted over forward and backward, FlopCounterMode
    parameters: int
    parameter_bytes: int
    parameter_tensors: int


@dataclass(frozen=True, kw_only=True)
class InputCeiling(Ceiling):
    """The loader alone, all local ranks at once: no model, every batch taken and dropped."""

    dataset: str
    dataset_options: str = "{}"  # as JSON, keys sorted
    cache: str
    workers: int
    batch: int
    ranks: int
    images_per_s: float  # of all ranks together


@dataclass(frozen=True, kw_only=True)
class TransferCeiling(Ceiling):
    """Copies from host memory to the device. None of this on a CPU, where nothing is copied."""

    pinned: bool
    size_bytes: list[int]
    seconds: list[list[float]]  # for each size, each repeat


@dataclass(frozen=True, kw_only=True)
class LinkCeiling(Ceiling):
    """One collective operation over a sweep of sizes."""

    backend: str
    operation: str  # all_reduce | broadcast | send
    ranks: int
    nodes: int
    size_bytes: list[int]
    seconds: list[list[float]]  # for each size, each repeat; the slowest rank's


@dataclass(frozen=True, kw_only=True)
class MatrixCeiling(Ceiling):
    """Square matrix products of the size that goes fastest, in the precision's type."""

    precision: str
    ranks: int  # processes that did so at once
    flop_per_s: float  # of one device


@dataclass(frozen=True, kw_only=True)
class CopyCheck(Ceiling):
    """Whether random bytes copied from one device to another arrive as they were, both ways."""

    pairs: list[str]
    broken: list[str]


CEILINGS: dict[str, type[Ceiling]] = {
    cls.kind: cls
    for cls in (ComputeCeiling, InputCeiling, TransferCeiling, LinkCeiling, MatrixCeiling, CopyCheck)
}
