"""Reading JSON-lines files: whole record files with validation, or only their first and last records.

Also the last lines of a log.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Generic, TypeVar

import jsonlines

from hpcbench.errors import RecordError
from hpcbench.runs.events import EVENTS, HEADER, SCHEMA, Event, RunFinished
from hpcbench.runs.results_folder import RunFolder

JsonLine = dict[str, Any]
T = TypeVar("T")

# What a field so annotated may hold; the figures of a report rest on these, lists are checked where used.
SCALAR_TYPES: dict[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,),
    "float | None": (int, float, NoneType), "int | None": (int, NoneType), "str | None": (str, NoneType),
}  # fmt: skip


@dataclass
class FileReading(Generic[T]):
    """What a file holds, in order; `torn` is 1 where its last line was cut off and dropped."""

    records: list[T] = field(default_factory=list)
    torn: int = 0


def read_json_lines(path: Path, record_of: Callable[[Path, int, JsonLine], T]) -> FileReading[T]:
    """Read a file of which each line is a record; raises RecordError as `_lines` and `record_of` do."""
    reading: FileReading[T] = FileReading()
    for number, line, torn in _numbered_lines(path):
        if torn:
            reading.torn += 1
        else:
            reading.records.append(record_of(path, number, line))
    return reading


def _numbered_lines(path: Path) -> Iterator[tuple[int, JsonLine, bool]]:
    """Yield (line number, object, torn); a last line without an end was cut off by a kill or a full disk.

    Raises RecordError, naming file and line, for any other line that is no JSON object.
    """
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
                    "Lines before and after it may be fine: set the file aside, or correct the line by hand"
                ) from error
    if tail:
        yield number, {}, True


def check_version(path: Path, number: int, version: Any, newest: int) -> int:
    """Return the schema of a line. Raises RecordError where this hpcbench is too old for it."""
    if not isinstance(version, int) or version > newest:
        raise RecordError(
            f"{path}:{number}: records of schema {version}; this hpcbench reads up to {newest}. "
            "Update hpcbench"
        )
    return version


def check_scalars(path: Path, number: int, kind: str, item: Any) -> None:
    """Raise RecordError where a plain field of a dataclass does not hold what its annotation says."""
    for name, declared, expected in _scalar_fields(item.__class__):
        if not isinstance(getattr(item, name), expected):
            raise RecordError(
                f"{path}:{number}: {kind}: {name} should be {declared}, found {getattr(item, name)!r}"
            )


@functools.cache
def _scalar_fields(cls: Any) -> tuple[tuple[str, str, tuple[type, ...]], ...]:
    """Return name, annotation and allowed types of the fields that are checked."""
    declared = ((each.name, str(each.type)) for each in dataclasses.fields(cls))
    return tuple((name, kind, SCALAR_TYPES[kind]) for name, kind in declared if kind in SCALAR_TYPES)


# schema version -> how its lines become those of the next version
UPGRADES: dict[int, Callable[[JsonLine], JsonLine]] = {}


@dataclass(frozen=True)
class Record:
    """An event with the header of its line."""

    event: Event
    run_id: str
    attempt: int
    rank: int | None
    time_ns: int


def read_events(path: Path) -> FileReading[Record]:
    """Read a record file.

    Raises RecordError, naming file and line, for a line that is broken and not the last, for an unknown
    event, and for records of a newer schema.
    """
    return read_json_lines(path, record_of)


def record_of(path: Path, number: int, line: JsonLine) -> Record:
    """Return the record of a parsed line, as of today's schema. Raises RecordError for what is none."""
    missing = [key for key in HEADER if key not in line]
    if missing:
        raise RecordError(f"{path}:{number}: a record without {', '.join(missing)}")
    line = _upgrade_line(path, number, line)
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
    check_scalars(path, number, cls.kind, event)
    return Record(event, header["run_id"], header["attempt"], header["rank"], header["time_ns"])


def _upgrade_line(path: Path, number: int, line: JsonLine) -> JsonLine:
    version = check_version(path, number, line["schema"], SCHEMA)
    while version < SCHEMA:
        line = UPGRADES[version](line)
        version += 1
    return line


RecordLine = dict[str, Any]

# `run_finished` is the last line of a rank's record.
ENDING_BYTES = 8 * 1024
# Holds dozens of windows of ten steps; a failure with its traceback needs about 20 KB.
TAIL_BYTES = 64 * 1024


def first_line(path: Path) -> RecordLine | None:
    """Return the first record, None where no whole line stands."""
    try:
        with path.open("rb") as file:
            return _parse_record(file.readline())
    except FileNotFoundError:
        return None


def last_lines(path: Path, size: int = TAIL_BYTES) -> list[RecordLine]:
    """Return the whole records among the last `size` bytes, oldest first; a torn last line is dropped.

    A line that can't be read is left out here: `collect` is who reports it.
    """
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            begin = file.seek(max(0, end - size))
            data = file.read()
    except FileNotFoundError:
        return []
    lines = data.splitlines(keepends=True)
    whole = lines if begin == 0 else lines[1:]
    return [line for line in map(_parse_record, whole) if line is not None]


def has_run_finished(path: Path) -> bool:
    """Return whether a rank's record says that the rank has done all of its work."""
    return any(line["event"] == RunFinished.kind for line in last_lines(path, ENDING_BYTES))


def is_finished(folder: RunFolder, attempt: int, processes: int) -> bool:
    """Return whether all processes of a run have done all of their work in this attempt."""
    return all(has_run_finished(folder.events(attempt, rank)) for rank in range(processes))


def _parse_record(text: bytes) -> RecordLine | None:
    if not text.endswith(b"\n"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None


LOG_LAST_LINES = 15
LOG_TAIL_BYTES = 16 * 1024


def last_log_lines(path: Path) -> list[str]:
    """Return the last lines of what a process has printed."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-LOG_LAST_LINES:]
