"""Columns that need several runs: speed-up and scaling efficiency against one device, and time to
accuracy.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from hpcbench.analysis.run_history import RecordedState

RankingRow = dict[str, Any]
REFERENCE_COLUMNS = ("dataset", "model", "precision", "cache")


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How many times as fast as one device, and what share of the ideal that is."""

    speed_up: float
    efficiency_pct: float
    reference: str
    kind: Literal["strong", "weak"]


def speed_ups(rows: Sequence[RankingRow]) -> dict[str, SpeedUp]:
    """Return the speed-up of each row of a ranking that has a throughput and a reference."""
    # The fastest single run of each kind; a later one of equal speed does not take its place.
    fastest: dict[Hashable, RankingRow] = {}
    for row in rows:
        if row["devices"] == 1 and row["throughput_samples_s"] and row["rank"] is not None:
            for key in (_strong_key(row), _weak_key(row)):
                best = fastest.setdefault(key, row)
                if row["throughput_samples_s"] > best["throughput_samples_s"]:
                    fastest[key] = row
    found = {}
    for row in rows:
        if not row["throughput_samples_s"] or not row["devices"]:
            continue
        strong = fastest.get(_strong_key(row))
        reference = strong or fastest.get(_weak_key(row))
        if reference is not None:
            ratio = row["throughput_samples_s"] / reference["throughput_samples_s"]
            found[row["experiment"]] = SpeedUp(
                speed_up=ratio,
                efficiency_pct=100 * ratio / row["devices"],
                reference=reference["experiment"],
                kind="strong" if strong else "weak",
            )
    return found


def _strong_key(row: RankingRow) -> Hashable:
    return "class", row["class"], *(row[key] for key in REFERENCE_COLUMNS)


def _weak_key(row: RankingRow) -> Hashable:
    return "batch", row["batch_per_rank"], *(row[key] for key in REFERENCE_COLUMNS)


TARGET_SHARE_OF_BEST = 0.99  # of the best accuracy of a class: the target where nobody names one


def target_accuracies(runs: pd.DataFrame, named_pct: float | None = None) -> dict[str, float]:
    """Return the accuracy that each class is timed to, in per cent, cut to one decimal."""
    finished = runs[(runs["state"] == RecordedState.FINISHED.value) & runs["rankable"].fillna(False)]
    means = finished.dropna(subset=["best_acc_pct"]).groupby(["class", "experiment"])["best_acc_pct"].mean()
    best = means.groupby(level=0).max()
    return {
        str(label): math.floor(10 * TARGET_SHARE_OF_BEST * float(value)) / 10
        if named_pct is None
        else named_pct
        for label, value in best.items()
    }


def times_to_accuracy(
    runs: pd.DataFrame, epochs: pd.DataFrame, target_pct: Mapping[str, float]
) -> dict[str, float]:
    """Return the mean time of each experiment all of whose finished repeats reach the target of their class.

    Training and evaluation of the slowest rank, epoch by epoch; an accuracy is known at the end of an epoch.
    """
    finished = runs.loc[runs["state"] == RecordedState.FINISHED.value, ["run_id", "experiment", "class"]]
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
