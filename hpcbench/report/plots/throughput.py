"""Throughput of each experiment, with its confidence interval and every single repeat."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from hpcbench.report.cells import Row, rank, throughput
from hpcbench.report.plots.scene import Scene, values
from hpcbench.report.plots.style import BLACK, BLUE, PLOT_IN, SKY, figure, names_width_in, shown

ROW_IN = 0.32
FARTHEST = 1.5  # an interval that reaches beyond this many times the longest bar is cut there


def draw_throughput(scene: Scene) -> Figure | None:
    """Draw horizontal bars, best first."""
    rows = scene.with_values(scene.runs, "throughput_samples_s")
    if not rows:
        return None
    names = [row["experiment"] for row in rows]
    drawn = figure(
        PLOT_IN + names_width_in(names) + 1.4,
        1.6 + ROW_IN * len(rows),
        f"{scene.words.captions['throughput']} – {scene.title}",
    )
    axes = drawn.add_subplot()
    farthest = FARTHEST * max(row["throughput_samples_s"] for row in rows)
    reach = max(_draw_row(axes, place, row, scene, farthest) for place, row in enumerate(rows))
    axes.set_xlim(0, reach * 1.03)
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_yticks(range(len(rows)), [_label(row) for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel(scene.words.labels["throughput_samples_s"].format(unit=scene.unit))
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
    axes.grid(axis="x", color="0.9")
    handles = [
        Patch(color=SKY, label=scene.words.labels["mean"]),
        Line2D([], [], color=BLACK, linewidth=1.2, label=scene.words.labels["interval"]),
        Line2D(
            [], [], color=BLUE, marker="o", markersize=3.5, linestyle="", label=scene.words.labels["repeat"]
        ),
    ]
    if all(row["throughput_ci_low"] is None for row in rows):
        del handles[1]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return drawn


def _label(row: Row) -> str:
    name = shown(row["experiment"])
    return name if row["rank"] is None else f"{rank(row)}.  {name}"


def _draw_row(axes: Any, place: int, row: Row, scene: Scene, farthest: float) -> float:
    """Draw a bar and return how far to the right it needs room."""
    repeats = values(scene.of(row, scene.runs)["throughput_samples_s"])
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
        throughput(row),
        transform=axes.get_yaxis_transform(),
        va="center",
        ha="left",
        fontsize=8.5,
    )
    return float(max([mean, min(high or mean, farthest), *repeats]))
