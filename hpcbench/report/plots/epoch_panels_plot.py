"""Training loss, test accuracy, throughput and memory of each epoch, in up to four panels."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hpcbench.analysis.figure_registry import FIGURES
from hpcbench.report.plots.plot_curves import (
    BAND_EXPLANATION,
    TrainingCurve,
    epoch_curve,
    line_widths,
    line_zorder,
)
from hpcbench.report.plots.plot_style import COLOURS, new_figure, shorten_name
from hpcbench.report.scenes import Scene
from hpcbench.report.table_cells import METRIC_TITLES

LINE_DASHES: tuple[tuple[float, tuple[float, ...]], ...] = (
    (0, ()),
    (0, (4, 2)),
    (0, (1, 1.5)),
    (0, (5, 2, 1, 2)),
)
NAMES_PER_ROW = 3
PANEL_SIZE_IN = (5.4, 3.1)
NAME_ROW_IN = 0.24
HEADROOM = 0.08  # above what is drawn from zero


def draw_epoch_panels(scene: Scene) -> Figure | None:
    """Draw 2 x 2 panels; a panel of which nothing is known is left away, others take its place."""
    metrics = [key for key, figure in FIGURES.items() if figure.by_epoch and scene.epochs[key].notna().any()]
    rows = [row for row in scene.rows if any(row in scene.with_values(scene.epochs, m) for m in metrics)]
    if not rows:
        return None
    across = min(2, len(metrics))
    down = -(-len(metrics) // across)
    names = -(-len(rows) // NAMES_PER_ROW)
    height = PANEL_SIZE_IN[1] * down + 0.6 + NAME_ROW_IN * names
    drawn = new_figure(PANEL_SIZE_IN[0] * across, height)
    grid = list(drawn.subplots(down, across, squeeze=False).flat)
    for axes, metric in zip(grid, metrics, strict=False):
        curves = {place: epoch_curve(scene, row, metric) for place, row in enumerate(rows)}
        curves = {place: curve for place, curve in curves.items() if curve.x}
        widths = line_widths(list(curves.values()))
        for (place, curve), width in zip(curves.items(), widths, strict=True):
            _draw_line(axes, curve, place, width)
        axes.set_title(scene.language.text(METRIC_TITLES[metric], unit=scene.unit), fontsize=10)
        axes.set_xlabel(scene.language.text("Epoch"))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.grid(color="0.92")
        if FIGURES[metric].zero_based:
            axes.set_ylim(0, (1 + HEADROOM) * axes.dataLim.ymax)
    for axes in grid[len(metrics) :]:
        axes.remove()
    handles = [Line2D([], [], linewidth=1.6, **_line_look(place)) for place in range(len(rows))]
    legend = drawn.legend(
        handles,
        ["?"] * len(rows),
        loc="outside lower center",
        ncols=min(NAMES_PER_ROW, len(rows)),
        frameon=False,
        title=scene.language.text(BAND_EXPLANATION),
        title_fontproperties={"size": 8},
    )
    for text, row in zip(legend.get_texts(), rows, strict=True):
        text.set_text(
            shorten_name(row["experiment"])
        )  # afterwards: matplotlib drops names that begin with "_"
    return drawn


def _line_look(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": LINE_DASHES[place // len(COLOURS) % len(LINE_DASHES)],
    }


def _draw_line(axes: Any, curve: TrainingCurve, place: int, width: float) -> None:
    look = _line_look(place)
    axes.fill_between(curve.x, curve.low, curve.high, color=look["color"], alpha=0.16, linewidth=0)
    marker = "o" if len(curve.x) <= 30 else ""
    axes.plot(
        curve.x, curve.mean, linewidth=width, marker=marker, markersize=3, zorder=line_zorder(width), **look
    )
