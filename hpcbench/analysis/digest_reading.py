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

from hpcbench.analysis.run_digest import RunDigest, digest_from_json, digest_to_json, read_digest
from hpcbench.analysis.run_figures import RunChecks
from hpcbench.analysis.step_tables import StoredSteps
from hpcbench.runs.results_folder import ResultsFolder, RunFolder
from hpcbench.runs.run_environment import source_files

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
    """The cache of one report folder: digests of runs. The files with their steps are in the folder `steps`.

    `checks` are the codes of the checks that were applied to these runs.
    """

    file: Path
    steps: Path
    checks: Sequence[str] = ()
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)

    @classmethod
    def read(cls, file: Path, steps: Path) -> DigestCache:
        """Read a cache; an empty one where there is none that this program has written."""
        cache = cls(file, steps)
        try:
            data = orjson.loads(file.read_bytes())
            if data["code"] == code_hash():
                unchanged = {
                    name for name, state in data["parts"].items() if state == _part_state(steps / name)
                }
                cache.runs = {key: run for key, run in data["runs"].items() if run["steps"][0] in unchanged}
                cache.checks = data["checks"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError):
            return cls(file, steps)
        return cache

    def find(self, folder: RunFolder, state: FileState, checks: RunChecks) -> RunDigest | None:
        """Return the digest of a run whose files are unchanged and to which these checks were applied."""
        run = self.runs.get(str(folder.path))
        if run is None or run["look"] != state or list(self.checks) != sorted(checks):
            return None
        part, first, rows, experiment = run["steps"]
        try:
            return digest_from_json(run["digest"], StoredSteps(self.steps / part, first, rows, experiment))
        except (KeyError, TypeError, ValueError):
            return None


def dump_cache(
    runs: Mapping[str, tuple[FileState, RunDigest, StoredSteps]], checks: Collection[str] = ()
) -> bytes:
    """Return the text of a cache, from the file state, digest and stored steps of each run folder."""
    parts = {stored.part for _, _, stored in runs.values()}
    return orjson.dumps(
        {
            "code": code_hash(),
            "checks": sorted(checks),
            "parts": {part.name: _part_state(part) for part in sorted(parts)},
            "runs": {
                key: {
                    "look": state,
                    "steps": [stored.part.name, stored.first, stored.rows, stored.experiment],
                    "digest": digest_to_json(kept),
                }
                for key, (state, kept, stored) in runs.items()
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
    digest = hashlib.blake2b(digest_size=16)
    for path in source_files(CODE_FOLDERS):
        digest.update(path.read_bytes())
    return digest.hexdigest()


# A process needs a few hundredths of a second to start; one reads about 50 MB in a second.
BYTES_PER_PROCESS = 10_000_000
PARTS_PER_PROCESS = 8  # so that no process works alone for long at the end


@dataclass(frozen=True)
class RunReference:
    """A run that is to be read, and the attempts that the ledger says were claimed."""

    results: ResultsFolder
    name: str
    repeat: int
    folder: RunFolder
    claimed: frozenset[int]


def read_digests(
    references: Sequence[RunReference], cache: DigestCache | None, checks: RunChecks
) -> list[tuple[FileState, RunDigest]]:
    """Return file state and digest of each run, from the cache or from its records.

    The state is taken before the records are read: what is written meanwhile counts as a change next time.
    """
    with garbage_collection_off():
        states = [file_state_of(run.folder, run.claimed) for run in references]
        known = [
            cache.find(run.folder, state, checks) if cache else None
            for run, (state, _) in zip(references, states, strict=True)
        ]
        unknown = [index for index, digest in enumerate(known) if digest is None]
        size_bytes = sum(states[index][1] for index in unknown)
        read = iter(_read_digests([references[index] for index in unknown], size_bytes, checks))
        return [(state, digest or next(read)) for (state, _), digest in zip(states, known, strict=True)]


def _read_digests(references: Sequence[RunReference], size_bytes: int, checks: RunChecks) -> list[RunDigest]:
    processes = min(len(os.sched_getaffinity(0)), size_bytes // BYTES_PER_PROCESS, len(references))
    if processes < 2:
        return [_read_referenced(run, checks) for run in references]
    # A fork starts at once, and is safe only while no thread of this process can hold a lock.
    method = "fork" if threading.active_count() == 1 else "spawn"
    share = max(1, len(references) // (processes * PARTS_PER_PROCESS))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=gc.disable) as pool:
        read = functools.partial(_read_referenced, checks=checks)
        return list(pool.map(read, references, chunksize=share))


def _read_referenced(reference: RunReference, checks: RunChecks) -> RunDigest:
    return read_digest(reference.folder, reference.claimed, checks)


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
