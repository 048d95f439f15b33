"""What an earlier `collect` has found out, so that the next one reads only the runs that have changed.

One file in the report folder. A run counts as unchanged as long as all of its files have the size and the
time that they had, and this program is the same to the last byte. Whatever is wrong with the file, and
whoever deletes it, costs time and nothing else.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

import hpcbench
from hpcbench.analysis.digest import Digest, StoredSteps, from_json, to_json
from hpcbench.runs.results_folder import RunFolder

WATCHED = re.compile(r"events\..*\.jsonl|claim\..*\.json|spec\.json")
CODE = ("analysis", "records", "config", "strategies")  # what digests depend on

# Name, size and time of each file of a run, and the attempts that the ledger knows.
Look = list[list[Any]]


def look_at(folder: RunFolder, claimed: Collection[int]) -> tuple[Look, int]:
    """Return how the files of a run look now, and the bytes of its records."""
    with os.scandir(folder.path) as entries:
        stats = [(each.name, each.stat()) for each in entries if WATCHED.fullmatch(each.name)]
    files = sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)
    return [*files, ["ledger", sorted(claimed)]], sum(stat.st_size for _, stat in stats)


@dataclass
class Cache:
    """The cache of one report folder; `parts` are the files with steps, in the folder `steps`."""

    file: Path
    steps: Path
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, steps: Path) -> Cache:
        """Read a cache; an empty one where there is none that this program has written."""
        cache = cls(file, steps)
        try:
            data = orjson.loads(file.read_bytes())
            if data["code"] == code_hash():
                whole = {name for name, look in data["parts"].items() if look == _look(steps / name)}
                cache.runs = {key: run for key, run in data["runs"].items() if run["steps"][0] in whole}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return cls(file, steps)
        return cache

    def find(self, folder: RunFolder, look: Look) -> Digest | None:
        """Return what is known of a run that looks as it did."""
        run = self.runs.get(str(folder.path))
        if run is None or run["look"] != look:
            return None
        part, first, rows, experiment = run["steps"]
        try:
            return from_json(run["digest"], StoredSteps(self.steps / part, first, rows, experiment))
        except (KeyError, TypeError, ValueError):
            return None


def dump(runs: Mapping[str, tuple[Look, Digest, StoredSteps]]) -> bytes:
    """Return the text of a cache, from the look, the digest and the stored steps of each run folder."""
    parts = {stored.part for _, _, stored in runs.values()}
    return orjson.dumps(
        {
            "code": code_hash(),
            "parts": {part.name: _look(part) for part in sorted(parts)},
            "runs": {
                key: {
                    "look": look,
                    "steps": [stored.part.name, stored.first, stored.rows, stored.experiment],
                    "digest": to_json(kept),
                }
                for key, (look, kept, stored) in runs.items()
            },
        },
        option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY,
    )


def _look(part: Path) -> list[int] | None:
    try:
        stat = part.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


@functools.cache
def code_hash() -> str:
    """Return a hash of the program that derives digests."""
    root = Path(hpcbench.__file__).parent
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(path for name in CODE for path in (root / name).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()
