"""Time to accuracy: from before the first sample is touched, evaluation included (MEASURING rule 15)."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from hpcbench.analysis.history import State

NEAR = 0.99  # of the best accuracy of a class: the target where nobody names one


def targets(runs: pd.DataFrame, named_pct: float | None = None) -> dict[str, float]:
    """Return the accuracy that each class is timed to, in per cent, cut to one decimal."""
    finished = runs[(runs["state"] == State.FINISHED.value) & runs["rankable"].fillna(False)]
    means = finished.dropna(subset=["best_acc_pct"]).groupby(["class", "experiment"])["best_acc_pct"].mean()
    best = means.groupby(level=0).max()
    return {
        str(label): math.floor(10 * NEAR * float(value)) / 10 if named_pct is None else named_pct
        for label, value in best.items()
    }


def times_to_accuracy(
    runs: pd.DataFrame, epochs: pd.DataFrame, target_pct: Mapping[str, float]
) -> dict[str, float]:
    """Return the mean time of each experiment all of whose finished repeats reach the target of their class.

    Training and evaluation of the slowest rank, epoch by epoch; an accuracy is known at the end of an epoch.
    """
    finished = runs.loc[runs["state"] == State.FINISHED.value, ["run_id", "experiment", "class"]]
    known = epochs.dropna(subset=["epoch_time_s"]).merge(finished[["run_id", "class"]], on="run_id")
    known = known.sort_values(["run_id", "epoch"], kind="stable")
    passed_s = known.groupby("run_id")["epoch_time_s"].cumsum()
    reached = known["acc_pct"] >= known["class"].map(target_pct)
    first = known.assign(passed_s=passed_s)[reached.fillna(False)].drop_duplicates("run_id")
    times = finished.merge(first[["run_id", "passed_s"]], on="run_id", how="left")
    # A mean over the repeats that made it would favour a run that often does not.
    of = times.groupby("experiment")["passed_s"]
    means = of.mean()[of.count() == of.size()]
    return {str(name): float(value) for name, value in means.items()}
