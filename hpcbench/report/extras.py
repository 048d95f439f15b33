"""What a report tells beyond `ranking.csv`, whose columns are fixed: scaling, time to accuracy, cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from hpcbench.analysis.derived_columns import speed_ups, target_accuracies, times_to_accuracy
from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.cells import Row
from hpcbench.report.limits import limit_columns

SECONDS_PER_HOUR = 3600
MEANS = ("step_p50_s", "step_p90_s", "step_p99_s", "slowest_rank_ratio", "joules_per_sample")


def with_extras(
    rows: Sequence[Row],
    loaded: LoadedResults,
    *,
    target_pct: float | None = None,
    cost_per_device_hour: float | None = None,
    standings: Mapping[str, MeasuredVsPredicted] | None = None,
) -> list[Row]:
    """Return the rows with further columns: scaling, time to accuracy, cost, limits, `folder`.

    `folder` is empty unless results of several folders are merged.
    """
    scaled = speed_ups(rows)
    reached = times_to_accuracy(loaded.runs, loaded.epochs, target_accuracies(loaded.runs, target_pct))
    told = _folders(loaded)
    beside = _means(loaded)
    return [
        {
            **row,
            "speed_up": scaled[name].speed_up if (name := row["experiment"]) in scaled else None,
            "efficiency_pct": scaled[name].efficiency_pct if name in scaled else None,
            "scaling": scaled[name].kind if name in scaled else None,
            "time_to_acc_s": reached.get(name),
            "cost_per_epoch": _cost(row, cost_per_device_hour),
            **beside.get(name, {}),
            **limit_columns((standings or {}).get(name)),
            "folder": told.get(name),
        }
        for row in rows
    ]


def _means(loaded: LoadedResults) -> dict[str, Row]:
    """Return the means over finished repeats of figures that the ranking does not have."""
    done = loaded.runs[loaded.runs["state"] == RecordedState.FINISHED.value]
    means = done.groupby("experiment")[list(MEANS)].mean()
    return {
        str(name): {str(column): None if pd.isna(value) else float(value) for column, value in row.items()}
        for name, row in means.iterrows()
    }


def _folders(loaded: LoadedResults) -> dict[str, str]:
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


def _cost(row: Row, per_device_hour: float | None) -> float | None:
    if per_device_hour is None or row["epoch_time_s"] is None or row["devices"] is None:
        return None
    cost: float = row["epoch_time_s"] / SECONDS_PER_HOUR * row["devices"] * per_device_hour
    return cost
