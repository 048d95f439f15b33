"""The curves of the page: for each experiment its values by epoch and by step, as small as they can be."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import pandas as pd

from hpcbench.analysis.results_loading import LoadedResults, LoadedRun
from hpcbench.analysis.run_history import RecordedState

DIGITS = 5
BY_EPOCH = ("train_loss", "acc_pct", "throughput_samples_s", "peak_mem_mb")
BY_STEP = "step_loss"
STATISTICS = ("mean", "min", "max")

# x, mean, low, high; low and high are missing where there is one repeat only
Curve = list[list[float | None]]


def curves(loaded: LoadedResults) -> dict[str, dict[str, Curve]]:
    """Return the curves of each experiment that has any, over its finished repeats."""
    runs, epochs = loaded.runs, loaded.epochs
    finished = set(runs.loc[runs["state"] == RecordedState.FINISHED.value, "run_id"])
    found: dict[str, dict[str, Curve]] = {}
    by_epoch = epochs[epochs["run_id"].isin(finished)].astype(dict.fromkeys(BY_EPOCH, "float64"))
    for metric in BY_EPOCH:
        known = by_epoch.dropna(subset=[metric])
        over = known.groupby(["experiment", "epoch"], sort=True)[metric].agg(list(STATISTICS))
        _add(found, metric, over)
    _add(found, BY_STEP, _by_step(loaded.keyed))
    return found


def _by_step(keyed: Sequence[tuple[str, LoadedRun]]) -> pd.DataFrame:
    """Return mean, lowest and highest repeat of the loss, in bins of equally many steps."""
    told = [(name, run.digest.curve) for name, run in keyed if run.history.state is RecordedState.FINISHED]
    points = pd.DataFrame(
        {
            "experiment": np.repeat([name for name, _ in told], [len(x) for _, (x, _) in told]),
            "at": [float(each) for _, (x, _) in told for each in x],
            "loss": [float(each) for _, (_, y) in told for each in y],
        }
    )
    over: pd.DataFrame = points.groupby(["experiment", "at"], sort=True)["loss"].agg(list(STATISTICS))
    return over


def _add(found: dict[str, dict[str, Curve]], metric: str, over: pd.DataFrame) -> None:
    names = over.index.get_level_values(0).tolist()
    at = over.index.get_level_values(1).tolist()
    values = [at, *(over[name].tolist() for name in STATISTICS)]
    columns = [[_short(float(each)) for each in column] for column in values]
    for experiment, places in groupby(range(len(names)), key=names.__getitem__):
        first, *rest = places
        part = slice(first, first + len(rest) + 1)
        x, mean, low, high = (column[part] for column in columns)
        found.setdefault(str(experiment), {})[metric] = [x, mean] if low == high else [x, mean, low, high]


def _short(value: float) -> float | None:
    """Return a number with the digits that a curve can show; whole ones as such."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def used_metrics(members: list[str], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the curves that any of some experiments has, in the order of the page."""
    return [m for m in (*BY_EPOCH, BY_STEP) if any(m in found.get(name, {}) for name in members)]
