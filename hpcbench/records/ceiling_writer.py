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


def line_of(ceiling: Ceiling, host: str) -> str:
    """Return a ceiling as its line. Raises ValueError for figures that are not finite."""
    header = {"ceiling": ceiling.kind, "schema": SCHEMA, "host": host, "time_ns": time.time_ns()}
    return json.dumps({**header, **dataclasses.asdict(ceiling)}, allow_nan=False, separators=(",", ":"))


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines, whole and together, and wait until they are on disk; several processes may do so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"{line}\n" for line in lines)
    lock = FileLock(path.with_name(f".{path.name}.lock"), timeout=60)
    with lock, path.open("a", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
