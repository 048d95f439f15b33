"""The ranking: one row per run name, ranked inside its class, with ties where no difference is supported."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from hpcbench.analysis.figure_registry import (
    FIGURES,
    RANKING_COLUMNS,
    RANKING_CSV,
    Row,
    figures_over,
    ranking_measures,
)
from hpcbench.analysis.pairwise_tests import PairTests, RunPair, ValuesByBlock, compare_all_pairs
from hpcbench.analysis.result_rows import plain_rows, typed_table
from hpcbench.analysis.run_history import RecordedState
from hpcbench.analysis.statistical_tests import estimate, rank_spans
from hpcbench.errors import input_error
from hpcbench.strategies.strategy_registry import is_baseline

SUMMARY_INPUT_COLUMNS = (
    *("experiment", "state", "rankable", "limit"),
    *(figure.key for figure in figures_over("constant", "mean", "max") if figure.key in RANKING_CSV),
)


@dataclass(frozen=True)
class Ranking:
    """The ranked rows, and for each class the comparisons that are told, best rows first."""

    frame: pd.DataFrame
    pairs: dict[str, list[RunPair]]
    rank_by: str


def check_rank_by(column: str) -> None:
    """Raise InputError, naming the valid ones, for a column that can't rank."""
    allowed = ranking_measures()
    if column not in allowed:
        raise input_error("no column to rank by", key="--rank-by", found=column, allowed=", ".join(allowed))


def rank_runs(runs: pd.DataFrame, *, rank_by: str = "throughput_samples_s") -> Ranking:
    """Rank the finished repeats in a frame of runs (`load.RUN_COLUMNS`). Raises InputError for `rank_by`."""
    check_rank_by(rank_by)
    rows: list[Row] = []
    pairs: dict[str, list[RunPair]] = {}
    repeats: dict[str, list[Row]] = {}
    for row in plain_rows(runs[list(SUMMARY_INPUT_COLUMNS)]):
        repeats.setdefault(str(row["experiment"]), []).append(row)
    summaries = [_summary(name, repeats[name]) for name in sorted(repeats)]
    # A class of None holds runs whose description can't be read; it stands last.
    values = values_by_block(runs, rank_by)
    classes = sorted({row["class"] for row in summaries}, key=lambda label: (label is None, label or ""))
    for label in classes:
        members = [row for row in summaries if row["class"] == label]
        ranked, pairs[str(label)] = _rank_class(members, values, rank_by)
        rows += ranked
    return Ranking(typed_table(rows, RANKING_COLUMNS), pairs, rank_by)


def _summary(name: str, repeats: list[Row]) -> Row:
    """Return one row for all repeats of a run; means are over the finished ones."""
    done = [row for row in repeats if row["state"] == RecordedState.FINISHED.value]
    described = [row for row in repeats if row["strategy"] is not None]
    row: Row = {
        "experiment": name,
        "class": None,
        "findings": "",
        "trusted": "unaudited",
        "repeats": len(done),
    }
    if described:
        row |= {figure.key: described[0][figure.key] for figure in figures_over("constant")}
    means = [figure.key for figure in figures_over("mean") if figure.key in RANKING_CSV]
    known = {column: _known_values(done, column) for column in means}
    row |= {column: estimate(values).mean if values else None for column, values in known.items()}
    if known["throughput_samples_s"]:
        throughput = estimate(known["throughput_samples_s"])
        row |= {"throughput_ci_low": throughput.low, "throughput_ci_high": throughput.high}
    row["peak_mem_mb"] = max(_known_values(done, "peak_mem_mb"), default=None)
    row["steps_per_epoch"] = max(_known_values(described, "steps_per_epoch"), default=None)
    row["limit"] = _limit_or_state(repeats, finished=len(done) > 0)
    row["rankable"] = len(done) > 0 and all(each["rankable"] for each in done)
    return row


def _known_values(rows: Sequence[Row], column: str) -> list[Any]:
    return [row[column] for row in rows if row[column] is not None]


def _limit_or_state(repeats: Sequence[Row], *, finished: bool) -> str | None:
    """Return what kept a run from its end: a limit that is a result, or, if none finished, its state."""
    limits = _known_values(repeats, "limit")
    if limits:
        return str(limits[0])
    if finished:
        return None
    order = [
        RecordedState.FAILED,
        RecordedState.UNREADABLE,
        RecordedState.INTERRUPTED,
        RecordedState.UNFINISHED,
        RecordedState.NOT_STARTED,
    ]
    states = {row["state"] for row in repeats}
    return next(state.value for state in order if state.value in states)


def _rank_class(members: list[Row], values: ValuesByBlock, rank_by: str) -> tuple[list[Row], list[RunPair]]:
    measure = FIGURES[rank_by]
    sign = -1.0 if measure.higher_is_better else 1.0
    ranked = [row for row in members if row["rankable"] and row.get(rank_by) is not None]
    ranked.sort(key=lambda row: (sign * row[rank_by], row["experiment"]))
    others = [row for row in members if row not in ranked]
    names = [row["experiment"] for row in ranked]
    pairs = compare_all_pairs(names, values, measure)
    spans = rank_spans(pairs.beaten_by(), pairs.beats())
    rows = [{**row, "rank": low, "rank_high": high} for row, (low, high) in zip(ranked, spans, strict=True)]
    return rows + others, reported_pairs(pairs, baseline_index(ranked))


def baseline_index(rows: Sequence[Row]) -> int | None:
    """Return the place of what others are held against: the fewest devices, `single_gpu` first."""
    return min(
        range(len(rows)),
        key=lambda place: (rows[place]["devices"] or 0, not is_baseline(rows[place]["strategy"]), place),
        default=None,
    )


def reported_pairs(pairs: PairTests, base: int | None) -> list[RunPair]:
    """Return the comparisons that a report tells: each row with the one above it, and with the baseline."""
    count = len(pairs.names)
    neighbours = [(i, i + 1) for i in range(count - 1)]
    against = (
        [] if base is None else [(min(i, base), max(i, base)) for i in range(count) if abs(i - base) > 1]
    )
    return [pairs.pair(i, j) for i, j in (*neighbours, *against)]


def values_by_block(runs: pd.DataFrame, column: str) -> ValuesByBlock:
    """Return the values of a column of finished repeats by run name and block; {} for a run without any."""
    found: dict[str, dict[str, float]] = {}
    for row in plain_rows(runs[["experiment", "block", "state", column]]):
        values = found.setdefault(row["experiment"], {})
        if row["state"] == RecordedState.FINISHED.value and row[column] is not None:
            values[str(row["block"])] = float(row[column])
    return found
