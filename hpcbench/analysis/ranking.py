"""The ranking: one row a run name, ranked inside its class, with ties where no difference is supported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hpcbench.analysis.columns import RANKING
from hpcbench.analysis.history import State
from hpcbench.analysis.pairs import ByBlock, Measure, Pair, Pairs, compare_all
from hpcbench.analysis.rows import Row, plain_rows, table
from hpcbench.analysis.statistics import estimate, rank_spans
from hpcbench.errors import input_error

SAME_IN_ALL_REPEATS = (
    "strategy", "backend", "model", "dataset", "class", "batch_per_rank", "ranks", "devices", "nodes",
    "global_batch", "precision", "cache",
)  # fmt: skip
MEANS = (
    "throughput_per_device", "best_acc_pct", "final_acc_pct", "epoch_time_s", "total_time_s", "data_wait_pct",
    "exposed_comm_pct",
)  # fmt: skip

SUMMARISED = (
    "experiment", "state", "rankable", "limit", "steps_per_epoch", "peak_mem_mb", "throughput_samples_s",
    *SAME_IN_ALL_REPEATS, *MEANS,
)  # fmt: skip

MEASURES = {
    "throughput_samples_s": Measure(True, True),
    "throughput_per_device": Measure(True, True),
    "best_acc_pct": Measure(True, False),
    "final_acc_pct": Measure(True, False),
    "epoch_time_s": Measure(False, True),
    "total_time_s": Measure(False, True),
    "peak_mem_mb": Measure(False, True),
    "data_wait_pct": Measure(False, False),
    "exposed_comm_pct": Measure(False, False),
}


@dataclass(frozen=True)
class Ranking:
    """The ranked rows, and for each class the comparisons that are told, best rows first."""

    frame: pd.DataFrame
    pairs: dict[str, list[Pair]]
    rank_by: str


def check_rank_by(column: str) -> None:
    """Raise InputError, naming the valid ones, for a column that can't rank."""
    if column not in MEASURES:
        raise input_error("no column to rank by", key="--rank-by", found=column, allowed=", ".join(MEASURES))


def rank(runs: pd.DataFrame, *, rank_by: str = "throughput_samples_s") -> Ranking:
    """Rank the finished repeats in a frame of runs (`load.RUN_COLUMNS`). Raises InputError for `rank_by`."""
    check_rank_by(rank_by)
    rows: list[Row] = []
    pairs: dict[str, list[Pair]] = {}
    repeats: dict[str, list[Row]] = {}
    for row in plain_rows(runs[list(SUMMARISED)]):
        repeats.setdefault(str(row["experiment"]), []).append(row)
    summaries = [_summary(name, repeats[name]) for name in sorted(repeats)]
    # A class of None holds runs whose description can't be read; it stands last.
    values = by_block(runs, rank_by)
    classes = sorted({row["class"] for row in summaries}, key=lambda label: (label is None, label or ""))
    for label in classes:
        members = [row for row in summaries if row["class"] == label]
        ranked, pairs[str(label)] = _rank_class(members, values, rank_by)
        rows += ranked
    return Ranking(table(rows, RANKING), pairs, rank_by)


def _summary(name: str, repeats: list[Row]) -> Row:
    """Return one row for all repeats of a run; means are over the finished ones."""
    done = [row for row in repeats if row["state"] == State.FINISHED.value]
    described = [row for row in repeats if row["strategy"] is not None]
    row: Row = {
        "experiment": name,
        "class": None,
        "findings": "",
        "trusted": "unaudited",
        "repeats": len(done),
    }
    if described:
        row |= {column: described[0][column] for column in SAME_IN_ALL_REPEATS}
    known = {column: _known(done, column) for column in (*MEANS, "throughput_samples_s")}
    row |= {column: estimate(known[column]).mean if known[column] else None for column in MEANS}
    if known["throughput_samples_s"]:
        found = estimate(known["throughput_samples_s"])
        row |= {
            "throughput_samples_s": found.mean,
            "throughput_ci_low": found.low,
            "throughput_ci_high": found.high,
        }
    row["peak_mem_mb"] = max(_known(done, "peak_mem_mb"), default=None)
    row["steps_per_epoch"] = max(_known(described, "steps_per_epoch"), default=None)
    row["limit"] = _limit(repeats, finished=len(done) > 0)
    row["rankable"] = len(done) > 0 and all(each["rankable"] for each in done)
    return row


def _known(rows: Sequence[Row], column: str) -> list[Any]:
    return [row[column] for row in rows if row[column] is not None]


def _limit(repeats: Sequence[Row], *, finished: bool) -> str | None:
    """Return what kept a run from its end: a limit that is a result, or, if none finished, its state."""
    limits = _known(repeats, "limit")
    if limits:
        return str(limits[0])
    if finished:
        return None
    order = [State.FAILED, State.UNREADABLE, State.INTERRUPTED, State.UNFINISHED, State.NOT_STARTED]
    states = {row["state"] for row in repeats}
    return next(state.value for state in order if state.value in states)


def _rank_class(members: list[Row], values: ByBlock, rank_by: str) -> tuple[list[Row], list[Pair]]:
    measure = MEASURES[rank_by]
    sign = -1.0 if measure.higher_is_better else 1.0
    ranked = [row for row in members if row["rankable"] and row.get(rank_by) is not None]
    ranked.sort(key=lambda row: (sign * row[rank_by], row["experiment"]))
    others = [row for row in members if row not in ranked]
    names = [row["experiment"] for row in ranked]
    pairs = compare_all(names, values, measure)
    spans = rank_spans(pairs.beaten_by(), pairs.beats())
    rows = [{**row, "rank": low, "rank_high": high} for row, (low, high) in zip(ranked, spans, strict=True)]
    return rows + others, told_pairs(pairs, baseline(ranked))


def baseline(rows: Sequence[Row]) -> int | None:
    """Return the place of what others are held against: the fewest devices, `single_gpu` first."""
    return min(
        range(len(rows)),
        key=lambda place: (rows[place]["devices"] or 0, rows[place]["strategy"] != "single_gpu", place),
        default=None,
    )


def told_pairs(pairs: Pairs, base: int | None) -> list[Pair]:
    """Return the comparisons that a report tells: each row with the one above it, and with the baseline."""
    count = len(pairs.names)
    neighbours = [(i, i + 1) for i in range(count - 1)]
    against = (
        [] if base is None else [(min(i, base), max(i, base)) for i in range(count) if abs(i - base) > 1]
    )
    return [pairs.pair(i, j) for i, j in (*neighbours, *against)]


def by_block(runs: pd.DataFrame, column: str) -> ByBlock:
    """Return the values of a column of finished repeats by run name and block; {} for a run without any."""
    found: dict[str, dict[str, float]] = {}
    for row in plain_rows(runs[["experiment", "block", "state", column]]):
        values = found.setdefault(row["experiment"], {})
        if row["state"] == State.FINISHED.value and row[column] is not None:
            values[str(row["block"])] = float(row[column])
    return found
