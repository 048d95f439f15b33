"""Reads the digests of runs: from the cache of an earlier report, else from the records in several
processes.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import multiprocessing
import os
import re
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

import hpcbench
from hpcbench.analysis.run_digest import RunDigest, digest_from_json, digest_to_json, read_digest
from hpcbench.analysis.step_tables import StoredSteps
from hpcbench.runs.results_folder import ResultsFolder, RunFolder

WATCHED_FILES = re.compile(r"events\..*\.jsonl|claim\..*\.json|spec\.json")
CODE_FOLDERS = ("analysis", "audit", "ceilings", "runs", "strategies", "sweep")  # what digests depend on

# Name, size and time of each file of a run, and the attempts that the ledger knows.
FileState = list[list[Any]]


def file_state_of(folder: RunFolder, claimed: Collection[int]) -> tuple[FileState, int]:
    """Return how the files of a run look now, and the bytes of its records."""
    with os.scandir(folder.path) as entries:
        stats = [(each.name, each.stat()) for each in entries if WATCHED_FILES.fullmatch(each.name)]
    files = sorted([name, stat.st_size, stat.st_mtime_ns] for name, stat in stats)
    return [*files, ["ledger", sorted(claimed)]], sum(stat.st_size for _, stat in stats)


@dataclass
class DigestCache:
    """The cache of one report folder; `parts` are the files with steps, in the folder `steps`."""

    file: Path
    steps: Path
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, steps: Path) -> DigestCache:
        """Read a cache; an empty one where there is none that this program has written."""
        cache = cls(file, steps)
        try:
            data = orjson.loads(file.read_bytes())
            if data["code"] == code_hash():
                whole = {name for name, look in data["parts"].items() if look == _part_state(steps / name)}
                cache.runs = {key: run for key, run in data["runs"].items() if run["steps"][0] in whole}
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return cls(file, steps)
        return cache

    def find(self, folder: RunFolder, look: FileState) -> RunDigest | None:
        """Return what is known of a run that looks as it did."""
        run = self.runs.get(str(folder.path))
        if run is None or run["look"] != look:
            return None
        part, first, rows, experiment = run["steps"]
        try:
            return digest_from_json(run["digest"], StoredSteps(self.steps / part, first, rows, experiment))
        except (KeyError, TypeError, ValueError):
            return None


def dump_cache(runs: Mapping[str, tuple[FileState, RunDigest, StoredSteps]]) -> bytes:
    """Return the text of a cache, from the look, the digest and the stored steps of each run folder."""
    parts = {stored.part for _, _, stored in runs.values()}
    return orjson.dumps(
        {
            "code": code_hash(),
            "parts": {part.name: _part_state(part) for part in sorted(parts)},
            "runs": {
                key: {
                    "look": look,
                    "steps": [stored.part.name, stored.first, stored.rows, stored.experiment],
                    "digest": digest_to_json(kept),
                }
                for key, (look, kept, stored) in runs.items()
            },
        },
        option=orjson.OPT_NON_STR_KEYS | orjson.OPT_SERIALIZE_NUMPY,
    )


def _part_state(part: Path) -> list[int] | None:
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
    for path in sorted(path for name in CODE_FOLDERS for path in (root / name).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()


# A process needs a few hundredths of a second to start; one reads about 50 MB in a second.
BYTES_PER_PROCESS = 10_000_000
PARTS_PER_PROCESS = 8  # so that nobody waits long for the last one


@dataclass(frozen=True)
class RunReference:
    """A run that is to be read, and the attempts that the ledger says were claimed."""

    results: ResultsFolder
    name: str
    repeat: int
    folder: RunFolder
    claimed: frozenset[int]


def read_digests(
    references: Sequence[RunReference], cache: DigestCache | None
) -> list[tuple[FileState, RunDigest]]:
    """Return look and digest of each run, from the cache or from its records.

    A run is looked at before it is read: what is written meanwhile makes it look changed the next time.
    """
    with garbage_collection_off():
        looks = [file_state_of(each.folder, each.claimed) for each in references]
        known = [
            cache.find(each.folder, look) if cache else None
            for each, (look, _) in zip(references, looks, strict=True)
        ]
        rest = [place for place, found in enumerate(known) if found is None]
        size = sum(looks[place][1] for place in rest)
        read = iter(_read_digests([references[place] for place in rest], size))
        return [(look, found or next(read)) for (look, _), found in zip(looks, known, strict=True)]


def _read_digests(references: Sequence[RunReference], size_bytes: int) -> list[RunDigest]:
    processes = min(len(os.sched_getaffinity(0)), size_bytes // BYTES_PER_PROCESS, len(references))
    if processes < 2:
        return [_read_referenced(each) for each in references]
    # Forked processes are there at once, and none of our threads may hold a lock meanwhile.
    method = "fork" if threading.active_count() == 1 else "spawn"
    share = max(1, len(references) // (processes * PARTS_PER_PROCESS))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=gc.disable) as pool:
        return list(pool.map(_read_referenced, references, chunksize=share))


def _read_referenced(reference: RunReference) -> RunDigest:
    return read_digest(reference.folder, reference.claimed)


@contextmanager
def garbage_collection_off() -> Iterator[None]:
    """Keep the garbage collector from walking all that was read again and again: a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
