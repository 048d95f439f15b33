"""The one way in which records are read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.errors import RecordError
from hpcbench.records.events import EVENTS, HEADER, SCHEMA, Event
from hpcbench.records.lines import Line, Reading, check_scalars, check_version, read_file

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


def read_events(path: Path) -> Reading[Record]:
    """Read a record file.

    Raises RecordError, naming file and line, for a line that is broken and not the last, for an unknown
    event, and for records of a newer schema.
    """
    return read_file(path, record_of)


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
    check_scalars(path, number, cls.kind, event)
    return Record(event, header["run_id"], header["attempt"], header["rank"], header["time_ns"])


def _upgrade(path: Path, number: int, line: Line) -> Line:
    version = check_version(path, number, line["schema"], SCHEMA)
    while version < SCHEMA:
        line = UPGRADES[version](line)
        version += 1
    return line
