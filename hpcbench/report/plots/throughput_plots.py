"""Pictures of throughput: each experiment of a class with its confidence interval, and all rows of a
report.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.plot_bars import label_rows
from hpcbench.report.plots.plot_style import (
    BLACK,
    BLUE,
    COLOURS,
    GREY,
    PLOT_IN,
    SKY,
    names_width_in,
    new_figure,
    shorten_name,
)
from hpcbench.report.scenes import Scene, known_values
from hpcbench.report.table_cells import rank_cell, rows_by_class, sample_unit, throughput_cell
from hpcbench.report.translations import Language

THROUGHPUT_ROW_IN = 0.32
LONGEST_INTERVAL = 1.5  # an interval that reaches beyond this many times the longest bar is cut there


def draw_throughput(scene: Scene) -> Figure | None:
    """Draw horizontal bars, best first."""
    rows = scene.with_values(scene.runs, "throughput_samples_s")
    if not rows:
        return None
    names = [row["experiment"] for row in rows]
    drawn = new_figure(PLOT_IN + names_width_in(names) + 1.4, 1.6 + THROUGHPUT_ROW_IN * len(rows))
    axes = drawn.add_subplot()
    farthest = LONGEST_INTERVAL * max(row["throughput_samples_s"] for row in rows)
    reach = max(_draw_throughput_bar(axes, place, row, scene, farthest) for place, row in enumerate(rows))
    axes.set_xlim(0, reach * 1.03)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [_ranked_label(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(scene.language.text("Throughput ({unit}/s)", unit=scene.unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="x", color="0.9")
    handles = [
        Patch(color=SKY, label=scene.language.text("mean over repeats")),
        Line2D([], [], color=BLACK, linewidth=1.2, label=scene.language.text("95 % confidence interval")),
        Line2D(
            [],
            [],
            color=BLUE,
            marker="o",
            markersize=3.5,
            linestyle="",
            label=scene.language.text("one repeat"),
        ),
    ]
    if all(row["throughput_ci_low"] is None for row in rows):
        del handles[1]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return drawn


def _ranked_label(row: ReportRow) -> str:
    name = shorten_name(row["experiment"])
    return name if row["rank"] is None else f"{rank_cell(row)}.  {name}"


def _draw_throughput_bar(axes: Any, place: int, row: ReportRow, scene: Scene, farthest: float) -> float:
    """Draw a bar and return how far to the right it needs room."""
    repeats = known_values(scene.of(row, scene.runs)["throughput_samples_s"])
    mean, low, high = (
        row[key] for key in ("throughput_samples_s", "throughput_ci_low", "throughput_ci_high")
    )
    axes.barh(place, mean, height=0.62, color=SKY)
    if low is not None:
        ends = [max(0.0, low), min(high, farthest)]
        axes.plot(ends, [place, place], color=BLACK, linewidth=1.2, solid_capstyle="butt")
        for end, cut in zip(ends, (low < 0, high > farthest), strict=True):
            axes.plot([end], [place], color=BLACK, marker=">" if cut else "|", markersize=5 if cut else 7)
    # Repeats stand below the interval, so that neither hides the other.
    axes.plot(repeats, [place + 0.17] * len(repeats), color=BLUE, marker="o", markersize=3, linestyle="")
    axes.text(
        1.01,
        place,
        throughput_cell(row),
        transform=axes.get_yaxis_transform(),
        va="center",
        ha="left",
        fontsize=8.5,
    )
    return float(max([mean, min(high or mean, farthest), *repeats]))


SUMMARY_ROW_IN = 0.26
MOST_SUMMARY_BARS = 120  # bars; more are no picture any more: `ranking.csv` has them all


def draw_summary(rows: Sequence[ReportRow], language: Language) -> Figure | None:
    """Draw the throughput of all rows, one colour a class, grey where a row is not ranked."""
    known = [row for row in rows if row["throughput_samples_s"] is not None][:MOST_SUMMARY_BARS]
    if not known:
        return None
    classes = list(rows_by_class(known))
    colours = {label: COLOURS[place % len(COLOURS)] for place, label in enumerate(classes)}
    names = [row["experiment"] for row in known]
    drawn = new_figure(
        PLOT_IN + names_width_in(names) + 1.4, 1.7 + SUMMARY_ROW_IN * len(known) + 0.2 * len(classes)
    )  # fmt: skip
    axes = drawn.add_subplot()
    for place, row in enumerate(known):
        trusted = row["rank"] is not None
        axes.barh(
            place, row["throughput_samples_s"], height=0.7,
            color=colours[row["class"]] if trusted else "#C8C8C8", alpha=0.85,
        )  # fmt: skip
        axes.text(
            1.01, place, throughput_cell(row), transform=axes.get_yaxis_transform(), va="center", fontsize=8,
            color="black" if trusted else GREY,
        )  # fmt: skip
        if place and row["class"] != known[place - 1]["class"]:
            axes.axhline(place - 0.5, color="0.6", linewidth=0.7)
    axes.set_xlabel(language.text("Throughput ({unit}/s)", unit=sample_unit(known)))
    label_rows(axes, names)
    handles = [Patch(color=colours[label], alpha=0.85, label=shorten_name(str(label))) for label in classes]
    if any(row["rank"] is None for row in known):
        handles.append(Patch(color="#C8C8C8", label=language.text("not ranked")))
    drawn.legend(handles=handles, loc="outside lower center", ncols=min(2, len(handles)), frameon=False)
    return drawn
