"""`steps.parquet/`: the steps of all runs, in parts of a few dozen runs, of which few are written anew."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow.parquet as pq

from hpcbench.analysis import digest_reading
from hpcbench.analysis.results_loading import LoadedResults, LoadedRun
from hpcbench.analysis.run_digest import RunDigest
from hpcbench.analysis.step_tables import StoredSteps, load_step_tables, write_steps_part
from hpcbench.report.files import replace_file
from hpcbench.runs.record_writer import write_atomically

RUNS_PER_PART = 32
CACHE = ".cache.json"
FOLDER = "steps.parquet"

Named = tuple[str, LoadedRun]


def known(report: Path) -> digest_reading.DigestCache:
    """Return what an earlier report has left."""
    return digest_reading.DigestCache.read(report / CACHE, report / FOLDER)


def keep(report: Path, loaded: LoadedResults) -> None:
    """Write the parts that are not as they should be, remove others, and leave a cache for the next time."""
    folder = report / FOLDER
    if folder.is_file():  # of an earlier version
        folder.unlink()
    folder.mkdir(exist_ok=True)
    parts = _parts(loaded.keyed, folder)
    places: dict[str, tuple[digest_reading.FileState, RunDigest, StoredSteps]] = {}
    for path, members in parts.items():
        stored = _placed(path, members)
        if not _is_there(path, members, stored):
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
    write_atomically(report / CACHE, digest_reading.dump_cache(places).decode())


def _parts(keyed: Sequence[Named], folder: Path) -> dict[Path, list[Named]]:
    """Return the runs of each part; one more run moves no other, until the number of parts doubles."""
    count = 1 << max(0, (len(keyed) - 1) // RUNS_PER_PART).bit_length()
    found: dict[Path, list[Named]] = {}
    for name, run in keyed:
        place = zlib.crc32(f"{run.folder.path}/{run.place}".encode()) % count
        found.setdefault(folder / f"part-{place:04}.parquet", []).append((name, run))
    return found


def _placed(path: Path, members: Sequence[Named]) -> list[StoredSteps]:
    places = []
    first = 0
    for name, run in members:
        rows = run.digest.steps.rows if isinstance(run.digest.steps, StoredSteps) else len(run.digest.steps)
        places.append(StoredSteps(path, first, rows, name))
        first += rows
    return places


def _is_there(path: Path, members: Sequence[Named], wanted: Sequence[StoredSteps]) -> bool:
    if [run.digest.steps for _, run in members] != list(wanted):
        return False
    rows: int = pq.read_metadata(path).num_rows
    return rows == sum(place.rows for place in wanted)
