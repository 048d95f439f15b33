"""The note in a folder of generated data that says so, and how many samples it has. No torch."""

from __future__ import annotations

import json
from pathlib import Path

MARKER = "hpcbench-generated.json"


def mark_generated(folder: Path, samples: dict[str, int]) -> None:
    """Note that the data here is generated; `samples` by part."""
    (folder / MARKER).write_text(json.dumps({"samples": samples}))


def smoke_samples(folder: Path, part: str) -> int | None:
    """Return how many samples a part of generated data has; None where the data is real."""
    path = folder / MARKER
    return int(json.loads(path.read_text())["samples"][part]) if path.exists() else None
