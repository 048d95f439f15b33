"""Record files read for figures: windows of steps as columns, whatever else there is as events.

A run of hours has millions of `steps` lines and a few hundred others. Building an object for each would take
longer than everything that is then done with it, so these lines become columns, one tuple a field.
What is not as our writer writes it is left to `reader`, which reads the file again, line by line: both give
the same events and the same errors.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any

import orjson

from hpcbench.records.events import HEADER, SCHEMA, Steps
from hpcbench.records.lines import SCALARS
from hpcbench.records.reader import Record, read_events, record_of

FIELDS = tuple(each.name for each in dataclasses.fields(Steps))
PLACE = {name: place for place, name in enumerate(FIELDS)}
LISTS = ("step_s", "loss_sum", "correct")  # one entry a step

Column = tuple[Any, ...]

_KEYS = ("schema", "run_id", "time_ns", *FIELDS)
_VALUES = itemgetter(*_KEYS)
_KEY_COUNT = len({*HEADER, *FIELDS})
_ALLOWED = [
    (PLACE[each.name], frozenset(SCALARS[str(each.type)]))
    for each in dataclasses.fields(Steps)
    if str(each.type) in SCALARS
]


def taker(places: Sequence[int]) -> Callable[[Column], Column]:
    """Return what takes the values at these places: as a slice where they follow each other, as usual."""
    if not len(places):
        return lambda column: ()
    part = slice(places[0], places[-1] + 1)
    if part.stop - part.start == len(places) and list(places) == list(range(part.start, part.stop)):
        return lambda column: column[part]
    return lambda column: tuple(column[place] for place in places)


@dataclass(frozen=True)
class StepColumns:
    """Windows of one rank, in the order of their lines: a column for each field of `Steps`."""

    columns: tuple[Column, ...] = ((),) * len(FIELDS)

    def __len__(self) -> int:
        return len(self.columns[0])

    def __getitem__(self, name: str) -> Column:
        return self.columns[PLACE[name]]

    def taken(self, places: Sequence[int]) -> StepColumns:
        """Return the windows at these places, in this order."""
        return StepColumns(tuple(map(taker(places), self.columns)))

    @classmethod
    def joined(cls, parts: Iterable[StepColumns]) -> StepColumns:
        """Return the windows of several files, one after the other."""
        known = [part for part in parts if len(part)]
        if len(known) < 2:
            return known[0] if known else cls()
        return cls(tuple(sum(columns, ()) for columns in zip(*(part.columns for part in known), strict=True)))


@dataclass(frozen=True, kw_only=True)
class RankReading:
    """What a record file says about one run; `last_ns` is the time of its last line, 0 without any."""

    records: list[Record]  # without the windows
    steps: StepColumns
    last_ns: int
    torn: int
    foreign: int  # lines of other runs, left out


def read_rank(path: Path, run_id: str) -> RankReading:
    """Read the lines of one run from a record file. Raises RecordError as `reader.read_events` does."""
    try:
        found, records, torn = _as_written(path)
    except (orjson.JSONDecodeError, _UnusualError, KeyError, TypeError):
        found, records, torn = _line_by_line(path)
    mine = [record for record in records if record.run_id == run_id]
    run_ids, times, *columns = found
    steps = StepColumns(tuple(columns))
    if set(run_ids) - {run_id}:
        places = [place for place, other in enumerate(run_ids) if other == run_id]
        steps, times = steps.taken(places), tuple(times[place] for place in places)
    return RankReading(
        records=mine,
        steps=steps,
        last_ns=max([*(record.time_ns for record in mine), *times[-1:]], default=0),
        torn=torn,
        foreign=len(records) + len(run_ids) - len(mine) - len(steps),
    )


class _UnusualError(Exception):
    """A line is not quite as our writer writes it, which may be an error or not."""


_Found = tuple[Sequence[Column], list[Record], int]
_EMPTY: Sequence[Column] = ((),) * (len(_KEYS) - 1)


def _as_written(path: Path) -> _Found:
    """Return columns (run id, time, fields), the other records, and torn lines."""
    whole, _, tail = path.read_bytes().rpartition(b"\n")
    windows, sizes = [], set()
    records = []
    for number, text in enumerate(whole.split(b"\n") if whole else (), 1):
        line = orjson.loads(text)
        if line["event"] == Steps.kind:
            # What is needed of a line is taken at once: thousands of maps would not stay near the processor.
            windows.append(_VALUES(line))
            sizes.add(len(line))
        else:
            records.append(record_of(path, number, line))
    if sizes - {_KEY_COUNT}:
        raise _UnusualError
    return _columns(windows), records, 1 if tail else 0


def _columns(windows: Sequence[Column]) -> Sequence[Column]:
    if not windows:
        return _EMPTY
    schemas, *columns = zip(*windows, strict=True)
    heads = set(map(type, columns[0])), set(map(type, columns[1]))
    if set(schemas) != {SCHEMA} or heads != ({str}, {int}):
        raise _UnusualError
    for place, allowed in _ALLOWED:
        if not set(map(type, columns[place + 2])) <= allowed:
            raise _UnusualError
    return columns


def _line_by_line(path: Path) -> _Found:
    reading = read_events(path)
    windows = [record for record in reading.records if isinstance(record.event, Steps)]
    others = [record for record in reading.records if not isinstance(record.event, Steps)]
    rows = [(r.run_id, r.time_ns, *(getattr(r.event, name) for name in FIELDS)) for r in windows]
    return list(zip(*rows, strict=True)) if rows else _EMPTY, others, reading.torn
