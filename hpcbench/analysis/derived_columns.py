"""Columns of the ranking that need several runs or further input: speed-up, scaling efficiency, time to
accuracy, cost, limits, and the folder of merged results.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from hpcbench.analysis.figure_registry import RANKING_CSV, ReportRow, figures_over
from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.ceilings.step_prediction import StepPrediction

REFERENCE_COLUMNS = ("dataset", "model", "precision", "cache")


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How many times as fast as one device, and what share of the ideal that is."""

    speed_up: float
    efficiency_pct: float
    reference: str
    kind: Literal["strong", "weak"]


def speed_ups(rows: Sequence[ReportRow]) -> dict[str, SpeedUp]:
    """Return the speed-up of each row of a ranking that has a throughput and a reference."""
    # The fastest single run of each kind; a later one of equal speed does not take its place.
    fastest: dict[Hashable, ReportRow] = {}
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


def _strong_key(row: ReportRow) -> Hashable:
    return "class", row["class"], *(row[key] for key in REFERENCE_COLUMNS)


def _weak_key(row: ReportRow) -> Hashable:
    return "batch", row["batch_per_rank"], *(row[key] for key in REFERENCE_COLUMNS)


TARGET_SHARE_OF_BEST = 0.99  # of the best accuracy of a class: the default target


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


SECONDS_PER_HOUR = 3600


def add_derived_columns(
    rows: Sequence[ReportRow],
    loaded: LoadedResults,
    *,
    target_pct: float | None = None,
    cost_per_device_hour: float | None = None,
    standings: Mapping[str, MeasuredVsPredicted] | None = None,
) -> list[ReportRow]:
    """Return the rows with further columns: scaling, time to accuracy, cost, limits, `folder`.

    `folder` is empty unless results of several folders are merged.
    """
    scaled = speed_ups(rows)
    reached = times_to_accuracy(loaded.runs, loaded.epochs, target_accuracies(loaded.runs, target_pct))
    source_folders = _source_folders(loaded)
    other_figures = _figures_beside_ranking(loaded)
    return [
        {
            **row,
            "speed_up": scaled[name].speed_up if (name := row["experiment"]) in scaled else None,
            "efficiency_pct": scaled[name].efficiency_pct if name in scaled else None,
            "scaling": scaled[name].kind if name in scaled else None,
            "time_to_acc_s": reached.get(name),
            "cost_per_epoch": _cost_per_epoch(row, cost_per_device_hour),
            **other_figures.get(name, {}),
            **limit_columns((standings or {}).get(name)),
            "folder": source_folders.get(name),
        }
        for row in rows
    ]


def _figures_beside_ranking(loaded: LoadedResults) -> dict[str, ReportRow]:
    """Return, over finished repeats, the figures that `ranking.csv` does not have."""
    done = loaded.runs[loaded.runs["state"] == RecordedState.FINISHED.value]
    ways: dict[str, Any] = {
        figure.key: figure.over for figure in figures_over("mean", "max") if figure.key not in RANKING_CSV
    }
    means = done.groupby("experiment").agg(ways)
    return {
        str(name): {str(column): None if pd.isna(value) else float(value) for column, value in row.items()}
        for name, row in means.iterrows()
    }


def _source_folders(loaded: LoadedResults) -> dict[str, str]:
    """Return which results each experiment is from, by the shortest ends of paths that differ."""
    places = [block.rpartition("/")[0] for block in loaded.runs["block"]]
    distinct = [Path(place).parts for place in dict.fromkeys(places)]
    if len(distinct) < 2:
        return {}
    depth = 1
    while len({parts[-depth:] for parts in distinct}) < len(distinct):
        depth += 1
    found: dict[str, list[str]] = {}
    for experiment, place in zip(loaded.runs["experiment"], places, strict=True):
        found.setdefault(experiment, []).append("/".join(Path(place).parts[-depth:]))
    return {experiment: ", ".join(dict.fromkeys(each)) for experiment, each in found.items()}


def _cost_per_epoch(row: ReportRow, per_device_hour: float | None) -> float | None:
    if per_device_hour is None or row["epoch_time_s"] is None or row["devices"] is None:
        return None
    cost: float = row["epoch_time_s"] / SECONDS_PER_HOUR * row["devices"] * per_device_hour
    return cost


def limit_columns(standing: MeasuredVsPredicted | None) -> ReportRow:
    """Return what a row of the ranking gets: prediction, how much of it was reached, MFU."""
    predicted = standing.predicted if standing else None
    reached = standing.of_predicted if standing else None
    return {
        "predicted_samples_s": predicted.samples_s if isinstance(predicted, StepPrediction) else None,
        "of_predicted_pct": None if reached is None else 100 * reached,
        "mfu_pct": standing.mfu_pct if standing else None,
    }
