"""Throughput against accuracy, with the runs that no other run beats in both."""

from __future__ import annotations

from matplotlib.figure import Figure

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.plot_style import COLOURS, GREY, PLOT_IN, name_legend, names_width_in, new_figure
from hpcbench.report.scenes import Scene

PARETO_MARKERS = "osD^vPX"
MOST_POINTS = len(COLOURS) * len(PARETO_MARKERS)
LEGEND_ROW_IN = 0.19


def draw_pareto(scene: Scene) -> Figure | None:
    """Draw a point for each run, and the front; one point alone says nothing."""
    rows = [r for r in scene.rows if r["throughput_samples_s"] is not None and r["best_acc_pct"] is not None]
    if not 2 <= len(rows) <= MOST_POINTS:
        return None
    names = [row["experiment"] for row in rows]
    drawn = new_figure(
        PLOT_IN + names_width_in(names) + 0.8, max(4.2, 1 + LEGEND_ROW_IN * (len(rows) + 1))
    )  # fmt: skip
    axes = drawn.add_subplot()
    front = _pareto_front(rows)
    (line,) = axes.plot(
        [r["throughput_samples_s"] for r in front], [r["best_acc_pct"] for r in front],
        color=GREY, linestyle=":",
        linewidth=1.4, zorder=1,
    )  # fmt: skip
    points = []
    for place, row in enumerate(rows):
        colour, marker = COLOURS[place % len(COLOURS)], PARETO_MARKERS[place // len(COLOURS)]
        x, y = row["throughput_samples_s"], row["best_acc_pct"]
        points += axes.plot(
            [x], [y], color=colour, marker=marker, linestyle="", markersize=8, markeredgecolor="white"
        )
    axes.set_xlabel(scene.language.text("Throughput ({unit}/s)", unit=scene.unit))
    axes.set_ylabel(scene.language.text("Best validation accuracy (%)"))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.set_xlim(left=0)
    axes.margins(y=0.12)
    axes.grid(color="0.92")
    shown = [line] if len(front) > 1 else []  # a point alone has no line
    name_legend(axes, [*points, *shown], [*names, *(scene.language.text("Pareto-optimal") for _ in shown)])
    return drawn


def _pareto_front(rows: list[ReportRow]) -> list[ReportRow]:
    """Return the rows that no other beats in both, slowest first."""
    front: list[ReportRow] = []
    for row in sorted(rows, key=lambda r: (-r["throughput_samples_s"], -r["best_acc_pct"])):
        if not front or row["best_acc_pct"] > front[-1]["best_acc_pct"]:
            front.append(row)
    return front[::-1]
