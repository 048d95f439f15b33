"""The one way in which records are read."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any

import jsonlines

from hpcbench.errors import RecordError
from hpcbench.records.events import EVENTS, HEADER, SCHEMA, Event

Line = dict[str, Any]

# What a field so annotated may hold; the figures of a report rest on these, lists are checked where used.
SCALARS: dict[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,),
    "float | None": (int, float, NoneType), "int | None": (int, NoneType), "str | None": (str, NoneType),
}  # fmt: skip

# schema version -> how its lines become those of the next version
UPGRADES: dict[int, Callable[[Line], Line]] = {}


@dataclass(frozen=True)
class Record:
    """An event with the header of its line."""

    event: Event
    run_id: str
    attempt: int
    rank: int | None
    time_ns: int


@dataclass
class Reading:
    """What a record file holds; `torn` is 1 where its last line was cut off and dropped."""

    records: list[Record] = field(default_factory=list)
    torn: int = 0


def read_events(path: Path) -> Reading:
    """Read a record file.

    Raises RecordError, naming file and line, for a line that is broken and not the last, for an unknown
    event, and for records of a newer schema.
    """
    reading = Reading()
    for number, line, torn in _lines(path):
        if torn:
            reading.torn += 1
        else:
            reading.records.append(record_of(path, number, line))
    return reading


def _lines(path: Path) -> Iterator[tuple[int, Line, bool]]:
    """Yield (line number, object, torn); a last line without an end was cut off by a kill or a full disk."""
    data = path.read_bytes()
    whole, _, tail = data.rpartition(b"\n")
    with jsonlines.Reader(io.BytesIO(whole), loads=json.loads) as reader:
        number = 0
        while True:
            number += 1
            try:
                yield number, reader.read(type=dict), False
            except EOFError:
                break
            except jsonlines.InvalidLineError as error:
                raise RecordError(
                    f"{path}:{error.lineno}: this line is no record ({str(error).splitlines()[0]}). "
                    "Lines before and after it may be fine: set the file aside, or mend the line by hand"
                ) from error
    if tail:
        yield number, {}, True


def record_of(path: Path, number: int, line: Line) -> Record:
    """Return the record of a parsed line, as of today's schema. Raises RecordError for what is none."""
    missing = [key for key in HEADER if key not in line]
    if missing:
        raise RecordError(f"{path}:{number}: a record without {', '.join(missing)}")
    line = _upgrade(path, number, line)
    cls: Any = EVENTS.get(line["event"]) if isinstance(line["event"], str) else None
    if cls is None:
        raise RecordError(f"{path}:{number}: unknown event {line['event']!r}")
    if not isinstance(line["run_id"], str) or not isinstance(line["time_ns"], int):
        raise RecordError(f"{path}:{number}: {cls.kind}: run_id should be a text and time_ns a whole number")
    header = {key: line.pop(key) for key in HEADER}
    try:
        event = cls(**line)
    except TypeError as error:
        raise RecordError(f"{path}:{number}: {cls.kind}: {error}") from error
    for name, declared, expected in _scalars(cls):
        if not isinstance(getattr(event, name), expected):
            raise RecordError(
                f"{path}:{number}: {cls.kind}: {name} should be {declared}, found {getattr(event, name)!r}"
            )
    return Record(event, header["run_id"], header["attempt"], header["rank"], header["time_ns"])


@functools.cache
def _scalars(cls: type[Event]) -> tuple[tuple[str, str, tuple[type, ...]], ...]:
    """Return name, annotation and allowed types of the fields that are checked."""
    declared = ((each.name, str(each.type)) for each in dataclasses.fields(cls))
    return tuple((name, kind, SCALARS[kind]) for name, kind in declared if kind in SCALARS)


def _upgrade(path: Path, number: int, line: Line) -> Line:
    version = line["schema"]
    if not isinstance(version, int) or version > SCHEMA:
        raise RecordError(
            f"{path}:{number}: records of schema {version}; this hpcbench reads up to {SCHEMA}. "
            "Update hpcbench"
        )
    while version < SCHEMA:
        line = UPGRADES[version](line)
        version += 1
    return line
