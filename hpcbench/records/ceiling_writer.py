"""The one way in which ceilings are written."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock

from hpcbench.records.ceilings import SCHEMA, Ceiling

BEGINNING = b'{"'  # of a line of ours; whatever else a file that a user names may end with is left alone


def line_of(ceiling: Ceiling, host: str) -> str:
    """Return a ceiling as its line. Raises ValueError for figures that are not finite."""
    header = {"ceiling": ceiling.kind, "schema": SCHEMA, "host": host, "time_ns": time.time_ns()}
    return json.dumps({**header, **dataclasses.asdict(ceiling)}, allow_nan=False, separators=(",", ":"))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines, whole and together, and wait until they are on disk; several processes may do so.

    A last line that was cut off, by a full disk or a kill, is dropped: no reader could pass it any more.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=60)
    with lock, path.open("a+b") as file:
        file.seek(0)
        whole, newline, tail = file.read().rpartition(b"\n")
        if tail.startswith(BEGINNING):
            file.truncate(len(whole) + len(newline))
        file.write(text.encode())
        file.flush()
        os.fsync(file.fileno())
