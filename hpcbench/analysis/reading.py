"""Reading the runs of results folders, several at a time where there is enough to read."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

from hpcbench.analysis.cache import Cache, Look, look_at
from hpcbench.analysis.digest import Digest, digest
from hpcbench.runs.results_folder import ResultsFolder, RunFolder

# A process needs a few hundredths of a second to start; one reads about 50 MB in a second.
WORTH_A_PROCESS_BYTES = 10_000_000
PARTS_PER_PROCESS = 8  # so that nobody waits long for the last one


@dataclass(frozen=True)
class Reference:
    """A run that is to be read, and the attempts that the ledger says were claimed."""

    results: ResultsFolder
    name: str
    repeat: int
    folder: RunFolder
    claimed: frozenset[int]


def read_runs(references: Sequence[Reference], cache: Cache | None) -> list[tuple[Look, Digest]]:
    """Return look and digest of each run, from the cache or from its records.

    A run is looked at before it is read: what is written meanwhile makes it look changed the next time.
    """
    with collection_off():
        looks = [look_at(each.folder, each.claimed) for each in references]
        known = [
            cache.find(each.folder, look) if cache else None
            for each, (look, _) in zip(references, looks, strict=True)
        ]
        rest = [place for place, found in enumerate(known) if found is None]
        size = sum(looks[place][1] for place in rest)
        read = iter(_read([references[place] for place in rest], size))
        return [(look, found or next(read)) for (look, _), found in zip(looks, known, strict=True)]


def _read(references: Sequence[Reference], size_bytes: int) -> list[Digest]:
    processes = min(len(os.sched_getaffinity(0)), size_bytes // WORTH_A_PROCESS_BYTES, len(references))
    if processes < 2:
        return [_read_one(each) for each in references]
    # Forked processes are there at once, and none of our threads may hold a lock meanwhile.
    method = "fork" if threading.active_count() == 1 else "spawn"
    share = max(1, len(references) // (processes * PARTS_PER_PROCESS))
    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(processes, mp_context=context, initializer=gc.disable) as pool:
        return list(pool.map(_read_one, references, chunksize=share))


def _read_one(reference: Reference) -> Digest:
    return digest(reference.folder, reference.claimed)


@contextmanager
def collection_off() -> Iterator[None]:
    """Keep the garbage collector from walking all that was read again and again: a third of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
