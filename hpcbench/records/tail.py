"""The first and the last records of a file, without reading what lies between: for `status` of large runs."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from hpcbench.records.events import RunFinished
from hpcbench.records.layout import RunFolder

Line = dict[str, Any]

# `run_finished` is the last line of a rank's record.
ENDING_BYTES = 8 * 1024
# Holds dozens of windows of ten steps; a failure with its traceback needs about 20 KB.
TAIL_BYTES = 64 * 1024


def first_line(path: Path) -> Line | None:
    """Return the first record, None where no whole line stands."""
    try:
        with path.open("rb") as file:
            return _parse(file.readline())
    except FileNotFoundError:
        return None


def last_lines(path: Path, size: int = TAIL_BYTES) -> list[Line]:
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
    return [line for line in map(_parse, whole) if line is not None]


def has_run_finished(path: Path) -> bool:
    """Return whether a rank's record says that the rank has done all of its work."""
    return any(line["event"] == RunFinished.kind for line in last_lines(path, ENDING_BYTES))


def is_finished(folder: RunFolder, attempt: int, processes: int) -> bool:
    """Return whether all processes of a run have done all of their work in this attempt."""
    return all(has_run_finished(folder.events(attempt, rank)) for rank in range(processes))


def _parse(text: bytes) -> Line | None:
    if not text.endswith(b"\n"):
        return None
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and "event" in line else None
