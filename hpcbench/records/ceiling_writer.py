"""The one way in which ceilings are written."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from hpcbench.records.ceilings import SCHEMA, Ceiling
from hpcbench.runs.record_writer import drop_torn_line


def line_of(ceiling: Ceiling, host: str) -> str:
    """Return a ceiling as its line. Raises ValueError for figures that are not finite."""
    header = {"ceiling": ceiling.kind, "schema": SCHEMA, "host": host, "time_ns": time.time_ns()}
    return json.dumps({**header, **dataclasses.asdict(ceiling)}, allow_nan=False, separators=(",", ":"))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines, whole and together, and wait until they are on disk.

    A line that was cut off is dropped first. One write to the end of the file: two processes of a host, whose
    file it is, do not mix their lines.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    drop_torn_line(path)
    with path.open("ab", buffering=0) as file:
        file.write("".join(f"{line}\n" for line in lines).encode())
        os.fsync(file.fileno())
