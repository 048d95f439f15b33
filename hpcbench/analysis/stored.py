"""The steps of all runs in files that `collect` keeps: `steps.parquet/`, some runs in each part.

A part is written anew only where one of its runs has changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hpcbench.analysis.digest import StoredSteps
from hpcbench.analysis.step_table import StepTable

NUMBERS = {"epoch": pa.int64(), "step": pa.int64(), "loss": pa.float64(), "acc_pct": pa.float64()}
KEYS = {"experiment": pa.string(), "repeat": pa.int64(), "run_id": pa.string()}

Key = tuple[str, int, str]  # experiment, repeat, run id


def step_tables(steps: Sequence[StepTable | StoredSteps]) -> list[StepTable]:
    """Return the steps of each run, reading each part once."""
    parts = {each.part for each in steps if isinstance(each, StoredSteps)}
    read = {part: _read(part) for part in parts}
    return [each if isinstance(each, StepTable) else _cut(read[each.part], each) for each in steps]


def _read(part: Path) -> StepTable:
    table = pq.read_table(part, columns=list(NUMBERS), partitioning=None)
    return StepTable(**{name: table[name].to_numpy() for name in NUMBERS})


def _cut(whole: StepTable, place: StoredSteps) -> StepTable:
    rows = slice(place.first, place.first + place.rows)
    return StepTable(*(getattr(whole, name)[rows] for name in NUMBERS))


def write_part(path: Path, runs: Sequence[tuple[Key, StepTable]]) -> None:
    """Write the steps of some runs; a loss that is not known is null."""
    lengths = [len(table) for _, table in runs]
    which = pa.array(np.repeat(np.arange(len(runs)), lengths))
    columns: dict[str, pa.Array] = {}
    for place, (name, kind) in enumerate(KEYS.items()):
        columns[name] = pa.array([key[place] for key, _ in runs], type=kind).take(which)
    for name, kind in NUMBERS.items():
        joined = np.concatenate([np.empty(0), *(getattr(table, name) for _, table in runs)])
        columns[name] = pa.array(joined.astype(kind.to_pandas_dtype()), type=kind, from_pandas=True)
    pq.write_table(pa.table(columns), path, use_dictionary=list(KEYS), compression="snappy")
