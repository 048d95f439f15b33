"""Lines of JSON as every record file has them: what is read, what is refused, what was cut off."""

from __future__ import annotations

import dataclasses
import functools
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType
from typing import Any, Generic, TypeVar

import jsonlines

from hpcbench.errors import RecordError

Line = dict[str, Any]
T = TypeVar("T")

# What a field so annotated may hold; the figures of a report rest on these, lists are checked where used.
SCALARS: dict[str, tuple[type, ...]] = {
    "float": (int, float), "int": (int,), "bool": (bool,), "str": (str,),
    "float | None": (int, float, NoneType), "int | None": (int, NoneType), "str | None": (str, NoneType),
}  # fmt: skip


@dataclass
class Reading(Generic[T]):
    """What a file holds, in order; `torn` is 1 where its last line was cut off and dropped."""

    records: list[T] = field(default_factory=list)
    torn: int = 0


def read_file(path: Path, record_of: Callable[[Path, int, Line], T]) -> Reading[T]:
    """Read a file of which each line is a record; raises RecordError as `_lines` and `record_of` do."""
    reading: Reading[T] = Reading()
    for number, line, torn in _lines(path):
        if torn:
            reading.torn += 1
        else:
            reading.records.append(record_of(path, number, line))
    return reading


def _lines(path: Path) -> Iterator[tuple[int, Line, bool]]:
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
                    "Lines before and after it may be fine: set the file aside, or mend the line by hand"
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
    for name, declared, expected in _scalars(item.__class__):
        if not isinstance(getattr(item, name), expected):
            raise RecordError(
                f"{path}:{number}: {kind}: {name} should be {declared}, found {getattr(item, name)!r}"
            )


@functools.cache
def _scalars(cls: Any) -> tuple[tuple[str, str, tuple[type, ...]], ...]:
    """Return name, annotation and allowed types of the fields that are checked."""
    declared = ((each.name, str(each.type)) for each in dataclasses.fields(cls))
    return tuple((name, kind, SCALARS[kind]) for name, kind in declared if kind in SCALARS)
