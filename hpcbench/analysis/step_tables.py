"""Loss and accuracy of every step of a run, in memory and in the parts of `steps.parquet`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hpcbench.analysis.step_windows import RunWindows


@dataclass(frozen=True)
class StepTable:
    """The steps of a run whose loss is known, as arrays; NaN where a loss was not finite."""

    epoch: NDArray[np.int64]
    step: NDArray[np.int64]
    loss: NDArray[np.float64]
    acc_pct: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.step)

    @classmethod
    def empty(cls) -> StepTable:
        """Return the table of a run without a known loss."""
        whole, number = np.empty(0, np.int64), np.empty(0)
        return cls(whole, whole, number, number)


def step_table(windows: RunWindows) -> StepTable:
    """Return mean loss and accuracy of every step, over the ranks that see a loss, warm-up steps too."""
    told = _windows_with_loss(windows)
    lengths = told.steps
    first = np.repeat(told.first_step - np.cumsum(lengths) + lengths, lengths)
    samples = np.repeat(told.numbers("loss_samples").sum(axis=1), lengths)
    return StepTable(
        epoch=np.repeat(told.epoch, lengths),
        step=first + np.arange(len(first)),
        loss=_sum_over_ranks(told, "loss_sum") / samples,
        acc_pct=100 * _sum_over_ranks(told, "correct") / samples,
    )


def _windows_with_loss(windows: RunWindows) -> RunWindows:
    """Return the ranks that see a loss, and of them the windows that all of them have seen one in."""
    seen = [(rank, rank.told["loss_sum"] & (rank.windows["loss_samples"] > 0)) for rank in windows.ranks]
    those = [(rank, found) for rank, found in seen if found.any()]
    if not those:
        return RunWindows()
    whole = np.flatnonzero(np.all([found for _, found in those], axis=0))
    return replace(windows, ranks=tuple(rank for rank, _ in those)).taken(whole)


def _sum_over_ranks(windows: RunWindows, name: str) -> NDArray[np.float64]:
    """Return what stands there for each step, summed over the ranks; NaN where one of them does not know."""
    total = np.zeros(int(windows.steps.sum()))
    for rank in windows.ranks:
        total += rank.steps[name]
    return total


@dataclass(frozen=True)
class StoredSteps:
    """Steps that stand in a file of an earlier report: `rows` of them from `first` on."""

    part: Path
    first: int
    rows: int
    experiment: str


STEP_NUMBER_COLUMNS = {"epoch": pa.int64(), "step": pa.int64(), "loss": pa.float64(), "acc_pct": pa.float64()}
STEP_KEY_COLUMNS = {"experiment": pa.string(), "repeat": pa.int64(), "run_id": pa.string()}

StepKey = tuple[str, int, str]  # experiment, repeat, run id


def load_step_tables(steps: Sequence[StepTable | StoredSteps]) -> list[StepTable]:
    """Return the steps of each run, reading each part once."""
    parts = {each.part for each in steps if isinstance(each, StoredSteps)}
    read = {part: _read_part(part) for part in parts}
    return [each if isinstance(each, StepTable) else _rows_of(read[each.part], each) for each in steps]


def _read_part(part: Path) -> StepTable:
    table = pq.read_table(part, columns=list(STEP_NUMBER_COLUMNS), partitioning=None)
    return StepTable(**{name: table[name].to_numpy() for name in STEP_NUMBER_COLUMNS})


def _rows_of(whole: StepTable, place: StoredSteps) -> StepTable:
    rows = slice(place.first, place.first + place.rows)
    return StepTable(*(getattr(whole, name)[rows] for name in STEP_NUMBER_COLUMNS))


def write_steps_part(path: Path, runs: Sequence[tuple[StepKey, StepTable]]) -> None:
    """Write the steps of some runs; a loss that is not known is null."""
    lengths = [len(table) for _, table in runs]
    which = pa.array(np.repeat(np.arange(len(runs)), lengths))
    columns: dict[str, pa.Array] = {}
    for place, (name, kind) in enumerate(STEP_KEY_COLUMNS.items()):
        columns[name] = pa.array([key[place] for key, _ in runs], type=kind).take(which)
    for name, kind in STEP_NUMBER_COLUMNS.items():
        joined = np.concatenate([np.empty(0), *(getattr(table, name) for _, table in runs)])
        columns[name] = pa.array(joined.astype(kind.to_pandas_dtype()), type=kind, from_pandas=True)
    pq.write_table(pa.table(columns), path, use_dictionary=list(STEP_KEY_COLUMNS), compression="snappy")
