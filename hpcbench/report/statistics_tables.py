"""Statistics of a class or group, row by row: `statistics.csv`, and a table for people."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hpcbench.analysis.figure_registry import FIGURES, FLAG, NUMBER, TEXT, WHOLE, Figure, ReportRow
from hpcbench.analysis.pairwise_tests import RunPair, ValuesByBlock, compare_all_pairs
from hpcbench.analysis.ranking import baseline_index
from hpcbench.analysis.result_rows import typed_table
from hpcbench.report.report_sentences import MEASURE_NAMES
from hpcbench.report.scenes import Scene
from hpcbench.report.study_tables import ReportTable
from hpcbench.report.table_cells import EMPTY_CELL, cell_text, figure_title, format_number
from hpcbench.report.translations import N_, Language

COMPARED_WITH = ("above", "baseline")
STATISTICS_NOTE = N_(
    "Ratios (differences for accuracies and shares) with 95 % confidence intervals, "
    "paired by repeat; what is supported is so after correction inside the class or group. Repeats "
    "needed (for a power of 0.8) are estimated from the spread seen so far."
)
DIFFERENCE_COLUMNS = {
    "scene": TEXT, "experiment": TEXT, "column": TEXT, "repeats": WHOLE, "mean": NUMBER,
    **{
        f"{which}_{name}": kind
        for which in COMPARED_WITH
        for name, kind in (
            ("experiment", TEXT), ("effect", NUMBER), ("effect_low", NUMBER), ("effect_high", NUMBER),
            ("p_holm", NUMBER), ("supported", FLAG), ("repeats_needed", WHOLE),
        )
    },
}  # fmt: skip


@dataclass(frozen=True)
class SceneStatistics:
    """The statistics of one scene; `rows` have the columns of `statistics.csv`."""

    title: str
    baseline: str
    rows: list[ReportRow]
    unit: str  # what a sample is called


def statistics_columns() -> dict[str, str]:
    """Return the columns of `statistics.csv` and their types."""
    return {**DIFFERENCE_COLUMNS, **{figure.key: figure.kind for figure in _further_figures()}}


def _further_figures() -> list[Figure]:
    return [figure for figure in FIGURES.values() if figure.statistics]


def scene_statistics(scene: Scene, values: ValuesByBlock, rank_by: str) -> SceneStatistics | None:
    """Return the statistics of the ranked rows of a scene, corrected inside it; None for fewer than two.

    `values` are those of `rank_by`, by run name and block.
    An effect is a ratio where the column is compared by ratio, else a difference.
    """
    measure = FIGURES[rank_by]
    sign = -1.0 if measure.higher_is_better else 1.0
    rows = [row for row in scene.rows if row[rank_by] is not None and row["trusted"] != "no"]
    rows.sort(key=lambda row: (sign * row[rank_by], row["experiment"]))
    base = baseline_index(rows)
    if base is None or len(rows) < 2:
        return None
    names = [row["experiment"] for row in rows]
    pairs = compare_all_pairs(names, values, measure)
    found = [
        {
            **{name: row.get(name) for name in statistics_columns()},
            "scene": scene.name, "column": rank_by, "mean": row[rank_by],
            **(_difference_columns("above", pairs.pair(place - 1, place), row, rank_by) if place else {}),
            **(
                _difference_columns("baseline", pairs.pair(base, place), row, rank_by)
                if place != base
                else {}
            ),
        }
        for place, row in enumerate(rows)
    ]  # fmt: skip
    return SceneStatistics(scene.title, names[base], found, scene.unit)


def statistics_csv(found: Sequence[SceneStatistics]) -> str:
    """Return `statistics.csv`."""
    rows = [row for statistics in found for row in statistics.rows]
    return typed_table(rows, statistics_columns()).to_csv(index=False, lineterminator="\n")


def statistics_table(each: SceneStatistics, language: Language) -> ReportTable:
    """Return the statistics as a table for people."""
    extras = [
        figure
        for figure in _further_figures()
        if figure.kind != TEXT and any(row[figure.key] is not None for row in each.rows)
    ]
    heads = (
        language.text("experiment"), "n", language.text(MEASURE_NAMES[each.rows[0]["column"]]),
        language.text("against the row above"), language.text("repeats needed"),
        language.text("against {baseline} (baseline)", baseline=each.baseline),
        language.text("repeats needed"),
        *(figure_title(figure, language, each.unit) for figure in extras),
    )  # fmt: skip
    body = [
        (
            row["experiment"], str(row["repeats"]), format_number(row["mean"]),
            _difference_text(row, "above", language), _repeats_needed_text(row, "above"),
            _difference_text(row, "baseline", language), _repeats_needed_text(row, "baseline"),
            *(cell_text(figure, row) for figure in extras),
        )
        for row in each.rows
    ]  # fmt: skip
    return ReportTable(each.title, heads, body)


def _difference_columns(which: str, pair: RunPair, row: ReportRow, rank_by: str) -> dict[str, Any]:
    """Return a comparison as seen from a row: above 1 (or 0), it has more of what is compared."""
    mean, half = pair.difference.mean, pair.difference.half_interval()
    side = 1.0 if pair.first == row["experiment"] else -1.0
    other = pair.second if side > 0 else pair.first
    columns: dict[str, Any] = {f"{which}_experiment": other}
    if mean is None:
        return columns
    scale = math.exp if FIGURES[rank_by].logarithmic else float
    columns[f"{which}_effect"] = scale(side * mean)
    if half is not None:
        columns |= {
            f"{which}_effect_low": scale(side * mean - half),
            f"{which}_effect_high": scale(side * mean + half),
        }  # fmt: skip
    if pair.p_holm is not None:
        columns |= {
            f"{which}_p_holm": pair.p_holm, f"{which}_supported": pair.supported,
            f"{which}_repeats_needed": pair.repeats_needed(),
        }  # fmt: skip
    return columns


def _difference_text(row: ReportRow, which: str, language: Language) -> str:
    effect = row[f"{which}_effect"]
    if effect is None:
        return EMPTY_CELL
    ratio = FIGURES[row["column"]].logarithmic
    low, high = row[f"{which}_effect_low"], row[f"{which}_effect_high"]
    effect_text = f"x {effect:.3g}" if ratio else f"{effect:+.3g}"
    if low is not None:
        effect_text += f" [{low:.3g}, {high:.3g}]"
    supported = row[f"{which}_supported"]
    if supported is None:
        return f"{effect_text} {language.text('not tested')}"
    return f"{effect_text} {language.text('supported') if supported else language.text('not supported')}"


def _repeats_needed_text(row: ReportRow, which: str) -> str:
    needed = row[f"{which}_repeats_needed"]
    return EMPTY_CELL if needed is None else str(needed)
