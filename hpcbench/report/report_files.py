"""Files of a report: replaced as a whole, written by one process at a time; the parts of `steps.parquet`
and the cache of digests.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq
from filelock import FileLock, Timeout

from hpcbench.analysis import digest_reading
from hpcbench.analysis.results_loading import LoadedResults, LoadedRun
from hpcbench.analysis.run_digest import RunDigest
from hpcbench.analysis.step_tables import StoredSteps, load_step_tables, write_steps_part
from hpcbench.audit.rule_table import RUN_CHECKS
from hpcbench.errors import HpcbenchError, InputError, input_error
from hpcbench.runs.record_writer import write_atomically

LOCK_WAIT_S = 600  # a report of hundreds of pictures takes minutes


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Make a report folder and hold it alone; raises an InputError where that cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".collect.lock", timeout=LOCK_WAIT_S):
            yield folder
    except Timeout as error:
        raise HpcbenchError(f"{folder}: another collect has been writing here for {LOCK_WAIT_S} s") from error
    except OSError as error:
        raise unwritable_report_error(folder, error) from error


def unwritable_report_error(folder: Path, error: OSError) -> InputError:
    """Say that the report can't be written, and why."""
    return input_error(
        f"the report cannot be written: {error.strerror or error}",
        key=str(error.filename or folder),
        hint="Make the folder writable, or remove the file of that name",
    )


def replace_file(path: Path, write: Callable[[Path], object], *, sync: bool = True) -> None:
    """Replace a file whole or not at all; `write` gets the path of a temporary one with the same ending.

    Without `sync` the write is not flushed to disk: for files that may be lost in a crash of the machine.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        write(temporary)
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_slug(text: str) -> str:
    """Return a text as part of a file name that is safe on any file system and in any URL."""
    return re.sub(r"[^A-Za-z0-9._=-]+", "-", text).strip("-.")[:100] or "unnamed"


def distinct_slugs(texts: Iterable[str]) -> list[str]:
    """Return a slug for each text, no two alike, whatever their case."""
    taken: set[str] = set()
    chosen: list[str] = []
    for text in texts:
        base, number = file_slug(text), 1
        found = base
        while found.lower() in taken:
            number += 1
            found = f"{base}-{number}"
        taken.add(found.lower())
        chosen.append(found)
    return chosen


RUNS_PER_PART = 32
DIGEST_CACHE_FILE = ".cache.json"
STEPS_FOLDER = "steps.parquet"

NamedRun = tuple[str, LoadedRun]


def read_digest_cache(report: Path) -> digest_reading.DigestCache:
    """Return what an earlier report has left."""
    return digest_reading.DigestCache.read(report / DIGEST_CACHE_FILE, report / STEPS_FOLDER)


def write_step_parts(report: Path, loaded: LoadedResults) -> None:
    """Write the parts that are not as they should be, remove others, and leave a cache for the next time."""
    folder = report / STEPS_FOLDER
    if folder.is_file():  # of an earlier version
        folder.unlink()
    folder.mkdir(exist_ok=True)
    parts = _runs_by_part(loaded.keyed, folder)
    places: dict[str, tuple[digest_reading.FileState, RunDigest, StoredSteps]] = {}
    for path, members in parts.items():
        stored = _stored_steps(path, members)
        if not _is_current(path, members, stored):
            tables = load_step_tables([run.digest.steps for _, run in members])
            keys = ((name, run.repeat, run.run_id) for name, run in members)
            rows = list(zip(keys, tables, strict=True))
            replace_file(path, partial(write_steps_part, runs=rows), sync=False)
        for (_, run), place in zip(members, stored, strict=True):
            at = run.folder.run(run.name, run.repeat).path
            places[str(at)] = (run.look, run.digest, place)
    for path in folder.iterdir():
        if path not in parts:
            path.unlink()
    write_atomically(report / DIGEST_CACHE_FILE, digest_reading.dump_cache(places, RUN_CHECKS).decode())


def _runs_by_part(keyed: Sequence[NamedRun], folder: Path) -> dict[Path, list[NamedRun]]:
    """Return the runs of each part; one more run moves no other, until the number of parts doubles."""
    count = 1 << max(0, (len(keyed) - 1) // RUNS_PER_PART).bit_length()
    found: dict[Path, list[NamedRun]] = {}
    for name, run in keyed:
        place = zlib.crc32(f"{run.folder.path}/{run.place}".encode()) % count
        found.setdefault(folder / f"part-{place:04}.parquet", []).append((name, run))
    return found


def _stored_steps(path: Path, members: Sequence[NamedRun]) -> list[StoredSteps]:
    places = []
    first = 0
    for name, run in members:
        rows = run.digest.steps.rows if isinstance(run.digest.steps, StoredSteps) else len(run.digest.steps)
        places.append(StoredSteps(path, first, rows, name))
        first += rows
    return places


def _is_current(path: Path, members: Sequence[NamedRun], wanted: Sequence[StoredSteps]) -> bool:
    if [run.digest.steps for _, run in members] != list(wanted):
        return False
    rows: int = pq.read_metadata(path).num_rows
    return rows == sum(place.rows for place in wanted)
