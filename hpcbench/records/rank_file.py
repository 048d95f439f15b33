"""Record files read for figures: windows of steps as columns, whatever else there is as events.

pyarrow reads the lines of windows into columns: to build an object for each would take longer than all that
is then done with them. What is not as our writer writes it is left to `reader`, which reads the file again,
line by line: both give the same figures and the same errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pj
from numpy.typing import NDArray

from hpcbench.errors import RecordError
from hpcbench.records.columns import LISTS, NUMBERS, Numbers, StepColumns
from hpcbench.records.events import SCHEMA, Steps
from hpcbench.records.reader import Record, read_events, record_of

MAY_BE_UNKNOWN = ("loss_sum", "correct")  # lists of ranks that see no loss

_WINDOW = b'{"event":"steps",'  # as our writer begins such a line
_TYPES = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
_KINDS = {each.name: str(each.type) for each in dataclasses.fields(Steps)}
_COLUMNS = {
    **{name: pa.string() for name in ("event", "run_id")},
    **{name: pa.int64() for name in ("schema", "attempt", "rank", "time_ns")},
    **{name: _TYPES[_KINDS[name].removesuffix(" | None")] for name in NUMBERS},
    **{name: pa.list_(pa.float64()) for name in LISTS},
}
_MAY_BE_NULL = {"attempt", "rank", *(name for name, kind in _KINDS.items() if kind.endswith(" | None"))}
_PARSING = pj.ParseOptions(explicit_schema=pa.schema(_COLUMNS), unexpected_field_behavior="error")
_LARGEST_BLOCK_BYTES = 1 << 30


@dataclass(frozen=True, kw_only=True)
class RankReading:
    """What a record file says about one run; `last_ns` is the time of its last line, 0 without any."""

    records: list[Record]  # without the windows
    steps: StepColumns
    last_ns: int
    torn: int
    foreign: int  # lines of other runs, left out


def read_rank(path: Path, run_id: str) -> RankReading:
    """Read the lines of one run from a record file.

    Raises RecordError as `reader.read_events` does, and for a window without a number for each of its steps.
    """
    try:
        return _as_written(path, run_id)
    except (pa.ArrowInvalid, orjson.JSONDecodeError, _UnusualError, KeyError, TypeError):
        return _line_by_line(path, run_id)


class _UnusualError(Exception):
    """A line is not quite as our writer writes it, which may be an error or not."""


def _as_written(path: Path, run_id: str) -> RankReading:
    whole, _, tail = path.read_bytes().rpartition(b"\n")
    windows: list[bytes] = []
    others: list[Record] = []
    for number, text in enumerate(whole.split(b"\n") if whole else (), 1):
        if text.startswith(_WINDOW):
            windows.append(text)
        else:
            others.append(record_of(path, number, orjson.loads(text)))
            if isinstance(others[-1].event, Steps):
                raise _UnusualError
    mine = [record for record in others if record.run_id == run_id]
    steps, times = _columns(windows, run_id)
    return RankReading(
        records=mine,
        steps=steps,
        last_ns=max([*(record.time_ns for record in mine), *times[-1:].tolist()], default=0),
        torn=1 if tail else 0,
        foreign=len(others) - len(mine) + len(windows) - len(steps),
    )


def _columns(lines: Sequence[bytes], run_id: str) -> tuple[StepColumns, NDArray[np.int64]]:
    """Return the windows of a run and the times of their lines."""
    if not lines:
        return StepColumns(), np.empty(0, np.int64)
    text = b"\n".join(lines)
    reading = pj.ReadOptions(use_threads=False, block_size=min(len(text) + 1, _LARGEST_BLOCK_BYTES))
    # Its own pools give pages back after each file and have to get new ones for the next.
    memory = pa.system_memory_pool()
    table = pj.read_json(pa.BufferReader(text), reading, _PARSING, memory_pool=memory).combine_chunks(memory)
    if table.num_rows != len(lines) or any(table[name].null_count for name in _COLUMNS.keys() - _MAY_BE_NULL):
        raise _UnusualError
    if pc.unique(table["schema"]).to_pylist() != [SCHEMA]:
        raise _UnusualError
    if pc.unique(table["run_id"]).to_pylist() != [run_id]:
        table = table.filter(pc.equal(table["run_id"], run_id))
    windows = {name: table[name].to_numpy().astype(float) for name in NUMBERS}
    told = {name: table[name].is_valid().to_numpy() for name in LISTS}
    lengths = windows["steps"].astype(np.int64)
    steps = {name: _entries(table[name], told[name], lengths) for name in LISTS}
    return StepColumns(windows, steps, told), table["time_ns"].to_numpy()


def _entries(lists: pa.ChunkedArray, told: NDArray[np.bool_], lengths: NDArray[np.int64]) -> Numbers:
    """Return what lists hold, one after the other; NaN for each step of a window without one."""
    if (pc.list_value_length(lists.drop_null()).to_numpy() != lengths[told]).any():
        raise _UnusualError
    entries = np.full(lengths.sum(), np.nan)
    entries[np.repeat(told, lengths)] = pc.list_flatten(lists).to_numpy()
    return entries


def _line_by_line(path: Path, run_id: str) -> RankReading:
    reading = read_events(path)
    mine = [record for record in reading.records if record.run_id == run_id]
    windows = [record.event for record in mine if isinstance(record.event, Steps)]
    for window in windows:
        _check_lists(path, window)
    try:
        steps = StepColumns.of(windows)
    except OverflowError as error:
        raise RecordError(f"{path}: a window holds a number that can't be: {error}") from error
    return RankReading(
        records=[record for record in mine if not isinstance(record.event, Steps)],
        steps=steps,
        last_ns=max((record.time_ns for record in mine), default=0),
        torn=reading.torn,
        foreign=len(reading.records) - len(mine),
    )


def _check_lists(path: Path, window: Steps) -> None:
    """Raise RecordError where a window does not have one number, or None, for each of its steps."""
    for name in LISTS:
        entries: Any = getattr(window, name)
        if entries is None and name in MAY_BE_UNKNOWN:
            continue
        whole = isinstance(entries, list) and len(entries) == window.steps
        if not whole or not set(map(type, entries)) <= {int, float, NoneType}:
            raise RecordError(
                f"{path}: window from step {window.first_step}: {name} should hold {window.steps} numbers"
            )
