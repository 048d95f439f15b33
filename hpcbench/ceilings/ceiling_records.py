"""The lines of `ceilings/<host>.jsonl`: their fields, their writer and their reader. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar

from hpcbench.errors import HpcbenchError, RecordError, input_error
from hpcbench.runs.record_reader import FileReading, JsonLine, check_scalars, check_version, read_json_lines
from hpcbench.runs.record_writer import drop_torn_line

CEILING_SCHEMA = 1
CEILING_HEADER = ("ceiling", "schema", "host", "time_ns")


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


CEILING_KINDS: dict[str, type[Ceiling]] = {
    cls.kind: cls
    for cls in (ComputeCeiling, InputCeiling, TransferCeiling, LinkCeiling, MatrixCeiling, CopyCheck)
}


def ceiling_line(ceiling: Ceiling, host: str) -> str:
    """Return a ceiling as its line. Raises ValueError for figures that are not finite."""
    header = {"ceiling": ceiling.kind, "schema": CEILING_SCHEMA, "host": host, "time_ns": time.time_ns()}
    return json.dumps({**header, **dataclasses.asdict(ceiling)}, allow_nan=False, separators=(",", ":"))


def append_ceiling_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines, whole and together, and wait until they are on disk.

    A line that was cut off is dropped first. One write to the end of the file: two processes of a host, whose
    file it is, do not mix their lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(path)
    with path.open("ab", buffering=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
        os.fsync(file.fileno())


# What was measured, as opposed to what was found: a later line with the same of these replaces an earlier.
CEILING_IDENTITY: dict[type[Ceiling], tuple[str, ...]] = {
    ComputeCeiling: (
        "device", "model", "stem", "dataset", "dataset_options", "precision", "batch", "accumulation",
        "channels_last", "compiled", "ranks",
    ),
    InputCeiling: ("device", "dataset", "dataset_options", "cache", "workers", "batch", "ranks"),
    TransferCeiling: ("device", "pinned"),
    LinkCeiling: ("device", "backend", "operation", "ranks", "nodes"),
    MatrixCeiling: ("device", "precision", "ranks"),
    CopyCheck: ("device",),
}  # fmt: skip
# A rate or a time of nothing, or less, is no ceiling; every figure is divided by one of these.
POSITIVE_FIELDS = (
    "images_per_s", "forward_backward_s", "flop_per_s", "batch", "ranks", "nodes", "parameters",
    "parameter_bytes", "parameter_tensors",
)  # fmt: skip


@dataclass(frozen=True)
class MeasuredCeiling:
    """A ceiling with the header of its line."""

    ceiling: Ceiling
    host: str
    time_ns: int

    @property
    def key(self) -> Hashable:
        """What was measured where: of two lines with one key the later one counts."""
        cls = type(self.ceiling)
        return self.host, cls.kind, *(getattr(self.ceiling, name) for name in CEILING_IDENTITY[cls])


def read_ceilings(path: Path) -> FileReading[MeasuredCeiling]:
    """Read a file of ceilings.

    Raises RecordError, naming file and line, for a line that is broken and not the last, for an unknown kind
    of ceiling, for figures that cannot be (a rate of 0), and for lines of a newer schema.
    """
    return read_json_lines(path, _parse_ceiling)


def read_all_ceilings(files: Iterable[Path], problems: list[str] | None = None) -> list[MeasuredCeiling]:
    """Return the records of several files in the order of their times.

    Raises InputError for a missing file and RecordError for a broken one. With `problems`, such a file is
    left out and described there instead.
    """
    found: list[MeasuredCeiling] = []
    for path in files:
        try:
            reading = _read_named_file(path)
        except HpcbenchError as error:
            if problems is None:
                raise
            problems.append(f"{error}; the ceilings in this file were left out")
            continue
        found += reading.records
        if reading.torn and problems is not None:
            problems.append(f"{path}: a last line that was cut off, and dropped")
    return sorted(found, key=lambda record: record.time_ns)


def _read_named_file(path: Path) -> FileReading[MeasuredCeiling]:
    try:
        return read_ceilings(path)
    except FileNotFoundError as error:
        raise input_error("no such file of ceilings", key=str(path)) from error
    except (OSError, UnicodeError) as error:
        raise RecordError(f"{path}: not readable ({error})") from error


def newest_ceilings(records: Iterable[MeasuredCeiling]) -> list[MeasuredCeiling]:
    """Return the last record of each key, in the order of the keys' first records."""
    kept: dict[Hashable, MeasuredCeiling] = {}
    for record in records:
        kept[record.key] = record
    return list(kept.values())


def _parse_ceiling(path: Path, number: int, line: JsonLine) -> MeasuredCeiling:
    missing = [key for key in CEILING_HEADER if key not in line]
    if missing:
        raise RecordError(f"{path}:{number}: a ceiling without {', '.join(missing)}")
    check_version(path, number, line["schema"], CEILING_SCHEMA)
    cls: Any = CEILING_KINDS.get(line["ceiling"])
    if cls is None:
        raise RecordError(f"{path}:{number}: unknown ceiling {line['ceiling']!r}")
    header = {key: line.pop(key) for key in CEILING_HEADER}
    try:
        ceiling = cls(**line)
    except TypeError as error:
        raise RecordError(f"{path}:{number}: {cls.kind}: {error}") from error
    check_scalars(path, number, cls.kind, ceiling)
    _check_figures(path, number, ceiling)
    if not isinstance(header["host"], str) or not isinstance(header["time_ns"], int):
        raise RecordError(f"{path}:{number}: {cls.kind}: host should be a name and time_ns a whole number")
    return MeasuredCeiling(ceiling, header["host"], header["time_ns"])


def _check_figures(path: Path, number: int, ceiling: Ceiling) -> None:
    for name in POSITIVE_FIELDS:
        value = getattr(ceiling, name, 1)
        if not math.isfinite(value) or value <= 0:
            raise RecordError(
                f"{path}:{number}: {ceiling.kind}: {name} should be more than 0, found {value!r}"
            )
    if not _is_json(getattr(ceiling, "dataset_options", "{}")):
        raise RecordError(f"{path}:{number}: {ceiling.kind}: dataset_options should be JSON")
    if isinstance(ceiling, LinkCeiling | TransferCeiling) and not _is_sweep(ceiling):
        raise RecordError(
            f"{path}:{number}: {ceiling.kind}: seconds should hold a list of positive numbers for each of "
            f"the {len(ceiling.size_bytes)} sizes, which grow"
        )
    if isinstance(ceiling, ComputeCeiling) and not (ceiling.step_s and all(map(_is_time, ceiling.step_s))):
        raise RecordError(f"{path}:{number}: {ceiling.kind}: step_s should hold positive numbers")


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _is_sweep(ceiling: LinkCeiling | TransferCeiling) -> bool:
    sizes, seconds = ceiling.size_bytes, ceiling.seconds
    known = all(isinstance(size, int) and size > 0 for size in sizes)
    grows = known and all(a < b for a, b in pairwise(sizes))
    told = len(sizes) == len(seconds) > 0 and all(isinstance(each, list) and each for each in seconds)
    return grows and told and all(_is_time(value) for each in seconds for value in each)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value > 0
