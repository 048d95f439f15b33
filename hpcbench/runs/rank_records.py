"""The record file of a rank, read fast for analysis: windows of steps as NumPy columns, all other events
as objects. pyarrow is imported only when a file is read: printing a ranking works without it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
from numpy.typing import NDArray

from hpcbench.errors import RecordError
from hpcbench.runs.events import SCHEMA, Steps
from hpcbench.runs.record_reader import Record, read_events, record_of

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.json as pj

STEP_LISTS = ("step_s", "loss_sum", "correct")  # one entry a step
WINDOW_NUMBERS = tuple(each.name for each in dataclasses.fields(Steps) if each.name not in STEP_LISTS)

FloatColumn = NDArray[np.float64]


@dataclass(frozen=True)
class StepColumns:
    """Windows of one rank, in the order of their lines: float64, NaN where something is not known.

    `windows` has one entry a window, of each field of `Steps` that is no list; `steps` one entry a step, of
    each that is; `told` says of which windows there is such a list.
    """

    windows: Mapping[str, FloatColumn] = field(
        default_factory=lambda: dict.fromkeys(WINDOW_NUMBERS, np.empty(0))
    )
    steps: Mapping[str, FloatColumn] = field(default_factory=lambda: dict.fromkeys(STEP_LISTS, np.empty(0)))
    told: Mapping[str, NDArray[np.bool_]] = field(
        default_factory=lambda: dict.fromkeys(STEP_LISTS, np.empty(0, dtype=bool))
    )

    def __len__(self) -> int:
        return len(self.windows["steps"])

    @classmethod
    def of(cls, windows: Sequence[Steps]) -> StepColumns:
        """Return the columns of some windows. Raises OverflowError for a number beyond float64."""
        lists = {name: [getattr(each, name) for each in windows] for name in STEP_LISTS}
        unknown = [[None] * each.steps for each in windows]
        entries = {
            name: [entry for some, none in zip(column, unknown, strict=True) for entry in some or none]
            for name, column in lists.items()
        }
        return cls(
            {
                name: np.array([getattr(each, name) for each in windows], dtype=float)
                for name in WINDOW_NUMBERS
            },
            {name: np.array(each, dtype=float) for name, each in entries.items()},
            {name: np.array([some is not None for some in each], bool) for name, each in lists.items()},
        )

    def taken(self, places: NDArray[np.int64]) -> StepColumns:
        """Return the windows at these places, in this order: views of these where they follow each other."""
        if not len(places):
            return StepColumns()
        lengths = self.windows["steps"].astype(np.int64)
        ends = np.cumsum(lengths)
        which: slice | NDArray[np.int64] = places
        if (np.diff(places) == 1).all():
            which = slice(places[0], places[-1] + 1)
            steps: slice | NDArray[np.int64] = slice(ends[places[0]] - lengths[places[0]], ends[places[-1]])
        else:
            behind = ends[places] - np.cumsum(lengths[places])  # how far each moves to the front
            steps = np.arange(lengths[places].sum()) + np.repeat(behind, lengths[places])
        return StepColumns(
            {name: column[which] for name, column in self.windows.items()},
            {name: column[steps] for name, column in self.steps.items()},
            {name: column[which] for name, column in self.told.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[StepColumns]) -> StepColumns:
        """Return the windows of several files, one after the other."""
        alike = zip(*((part.windows, part.steps, part.told) for part in parts), strict=True)
        return cls(
            *({name: np.concatenate([each[name] for each in same]) for name in same[0]} for same in alike)
        )


MAY_BE_UNKNOWN = ("loss_sum", "correct")  # lists of ranks that see no loss

_WINDOW = b'{"event":"steps",'  # as our writer begins such a line
_KINDS = {each.name: str(each.type) for each in dataclasses.fields(Steps)}
_MAY_BE_NULL = {"attempt", "rank", *(name for name, kind in _KINDS.items() if kind.endswith(" | None"))}
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

    Raises RecordError as `read_events` does, and for a window without a number for each of its steps.
    """
    import pyarrow as pa

    try:
        return _read_columnar(path, run_id)
    except (pa.ArrowInvalid, orjson.JSONDecodeError, _UnusualError, KeyError, TypeError):
        return _read_line_by_line(path, run_id)


@functools.cache
def _parse_options() -> pj.ParseOptions:
    """Return how lines of windows are parsed: their columns and no others."""
    import pyarrow as pa
    import pyarrow.json as pj

    types = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    columns = {
        **{name: pa.string() for name in ("event", "run_id")},
        **{name: pa.int64() for name in ("schema", "attempt", "rank", "time_ns")},
        **{name: types[_KINDS[name].removesuffix(" | None")] for name in WINDOW_NUMBERS},
        **{name: pa.list_(pa.float64()) for name in STEP_LISTS},
    }
    return pj.ParseOptions(explicit_schema=pa.schema(columns), unexpected_field_behavior="error")


class _UnusualError(Exception):
    """A line is not quite as our writer writes it, which may be an error or not."""


def _read_columnar(path: Path, run_id: str) -> RankReading:
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
    steps, times = _window_columns(windows, run_id)
    return RankReading(
        records=mine,
        steps=steps,
        last_ns=max([*(record.time_ns for record in mine), *times[-1:].tolist()], default=0),
        torn=1 if tail else 0,
        foreign=len(others) - len(mine) + len(windows) - len(steps),
    )


def _window_columns(lines: Sequence[bytes], run_id: str) -> tuple[StepColumns, NDArray[np.int64]]:
    """Return the windows of a run and the times of their lines."""
    if not lines:
        return StepColumns(), np.empty(0, np.int64)
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.json as pj

    text = b"\n".join(lines)
    reading = pj.ReadOptions(use_threads=False, block_size=min(len(text) + 1, _LARGEST_BLOCK_BYTES))
    # Its own pools give pages back after each file and have to get new ones for the next.
    memory = pa.system_memory_pool()
    source = pa.BufferReader(text)
    table = pj.read_json(source, reading, _parse_options(), memory_pool=memory).combine_chunks(memory)
    never_null = set(table.column_names) - _MAY_BE_NULL
    if table.num_rows != len(lines) or any(table[name].null_count for name in never_null):
        raise _UnusualError
    if pc.unique(table["schema"]).to_pylist() != [SCHEMA]:
        raise _UnusualError
    if pc.unique(table["run_id"]).to_pylist() != [run_id]:
        table = table.filter(pc.equal(table["run_id"], run_id))
    windows = {name: table[name].to_numpy().astype(float) for name in WINDOW_NUMBERS}
    told = {name: table[name].is_valid().to_numpy() for name in STEP_LISTS}
    lengths = windows["steps"].astype(np.int64)
    steps = {name: _step_entries(table[name], told[name], lengths) for name in STEP_LISTS}
    return StepColumns(windows, steps, told), table["time_ns"].to_numpy()


def _step_entries(lists: pa.ChunkedArray, told: NDArray[np.bool_], lengths: NDArray[np.int64]) -> FloatColumn:
    """Return what lists hold, one after the other; NaN for each step of a window without one."""
    import pyarrow.compute as pc

    if (pc.list_value_length(lists.drop_null()).to_numpy() != lengths[told]).any():
        raise _UnusualError
    entries = np.full(lengths.sum(), np.nan)
    entries[np.repeat(told, lengths)] = pc.list_flatten(lists).to_numpy()
    return entries


def _read_line_by_line(path: Path, run_id: str) -> RankReading:
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
    for name in STEP_LISTS:
        entries: Any = getattr(window, name)
        if entries is None and name in MAY_BE_UNKNOWN:
            continue
        whole = isinstance(entries, list) and len(entries) == window.steps
        if not whole or not set(map(type, entries)) <= {int, float, NoneType}:
            raise RecordError(
                f"{path}: window from step {window.first_step}: {name} should hold {window.steps} numbers"
            )
