"""Is it the same hpcbench? Between two releases the version alone does not tell."""

from __future__ import annotations

import hashlib
from pathlib import Path

import hpcbench

# What ranks execute. Commands, tables and reports may differ from a rank's without harm.
RANK_SIDE = ("config", "measure", "records", "strategies", "teaching", "training")


def source_digest() -> str:
    """Return eight digits that stand for the source of what ranks execute."""
    root = Path(hpcbench.__file__).parent
    whole = hashlib.sha256()
    for folder in RANK_SIDE:
        for path in sorted((root / folder).rglob("*.py")):
            whole.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return whole.hexdigest()[:8]
