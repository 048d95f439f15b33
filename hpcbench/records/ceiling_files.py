"""The one way in which ceilings are read: `ceilings/<host>.jsonl` of a results folder, or `probe --out`."""

from __future__ import annotations

import json
import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from hpcbench.errors import RecordError
from hpcbench.records.ceilings import (
    CEILINGS,
    HEADER,
    SCHEMA,
    Ceiling,
    ComputeCeiling,
    CopyCheck,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
    TransferCeiling,
)
from hpcbench.runs.record_reader import FileReading, JsonLine, check_scalars, check_version, read_json_lines

# What was measured, as opposed to what was found: a later line with the same of these replaces an earlier.
IDENTITY: dict[type[Ceiling], tuple[str, ...]] = {
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
POSITIVE = (
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
        return self.host, cls.kind, *(getattr(self.ceiling, name) for name in IDENTITY[cls])


def read_ceilings(path: Path) -> FileReading[MeasuredCeiling]:
    """Read a file of ceilings.

    Raises RecordError, naming file and line, for a line that is broken and not the last, for an unknown kind
    of ceiling, for figures that cannot be (a rate of 0), and for lines of a newer schema.
    """
    return read_json_lines(path, _measured)


def newest(records: Iterable[MeasuredCeiling]) -> list[MeasuredCeiling]:
    """Return the last record of each key, in the order of the keys' first records."""
    kept: dict[Hashable, MeasuredCeiling] = {}
    for record in records:
        kept[record.key] = record
    return list(kept.values())


def _measured(path: Path, number: int, line: JsonLine) -> MeasuredCeiling:
    missing = [key for key in HEADER if key not in line]
    if missing:
        raise RecordError(f"{path}:{number}: a ceiling without {', '.join(missing)}")
    check_version(path, number, line["schema"], SCHEMA)
    cls: Any = CEILINGS.get(line["ceiling"])
    if cls is None:
        raise RecordError(f"{path}:{number}: unknown ceiling {line['ceiling']!r}")
    header = {key: line.pop(key) for key in HEADER}
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
    for name in POSITIVE:
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
