"""The four panels of a group: training loss, test accuracy, throughput and memory, epoch by epoch."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hpcbench.report.cells import Row
from hpcbench.report.plots.curves import Curve, height, line_widths
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import COLOURS, figure, shown

METRICS = ("train_loss", "acc_pct", "throughput_samples_s", "peak_mem_mb")
FROM_ZERO = ("throughput_samples_s", "peak_mem_mb")  # what is compared by ratio
DASHES: tuple[tuple[float, tuple[float, ...]], ...] = ((0, ()), (0, (4, 2)), (0, (1, 1.5)), (0, (5, 2, 1, 2)))
NAMES_PER_ROW = 3
PANEL_IN = (5.4, 3.1)
NAME_ROW_IN = 0.24
HEADROOM = 0.08  # above what is drawn from zero


def draw_panels_of(scene: Scene) -> Figure | None:
    """Draw 2 x 2 panels; a panel of which nothing is known is left away, others take its place."""
    metrics = [metric for metric in METRICS if scene.epochs[metric].notna().any()]
    rows = [row for row in scene.rows if any(row in scene.with_values(scene.epochs, m) for m in metrics)]
    if not rows:
        return None
    across = min(2, len(metrics))
    down = -(-len(metrics) // across)
    names = -(-len(rows) // NAMES_PER_ROW)
    height = PANEL_IN[1] * down + 0.6 + NAME_ROW_IN * names
    drawn = figure(PANEL_IN[0] * across, height, f"{scene.words.captions['panels']} – {scene.title}")
    grid = list(drawn.subplots(down, across, squeeze=False).flat)
    for axes, metric in zip(grid, metrics, strict=False):
        curves = {place: _curve(scene, row, metric) for place, row in enumerate(rows)}
        curves = {place: curve for place, curve in curves.items() if curve.x}
        widths = line_widths(list(curves.values()))
        for (place, curve), width in zip(curves.items(), widths, strict=True):
            _draw(axes, curve, place, width)
        axes.set_title(scene.words.labels[metric].format(unit=scene.unit), fontsize=10)
        axes.set_xlabel(scene.words.labels["epoch"])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.grid(color="0.92")
        if metric in FROM_ZERO:
            axes.set_ylim(0, (1 + HEADROOM) * axes.dataLim.ymax)
    for axes in grid[len(metrics) :]:
        axes.remove()
    handles = [Line2D([], [], linewidth=1.6, **_look(place)) for place in range(len(rows))]
    legend = drawn.legend(
        handles,
        ["?"] * len(rows),
        loc="outside lower center",
        ncols=min(NAMES_PER_ROW, len(rows)),
        frameon=False,
        title=scene.words.labels["band"],
        title_fontproperties={"size": 8},
    )
    for text, row in zip(legend.get_texts(), rows, strict=True):
        text.set_text(shown(row["experiment"]))  # afterwards: matplotlib drops names that begin with "_"
    return drawn


def _look(place: int) -> dict[str, Any]:
    return {
        "color": COLOURS[place % len(COLOURS)],
        "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
    }


def _curve(scene: Scene, row: Row, metric: str) -> Curve:
    known = scene.of(row, scene.epochs).dropna(subset=[metric])
    over = known.groupby("epoch")[metric].agg(["mean", "min", "max"]).astype(float)
    return Curve([int(epoch) for epoch in over.index], *(over[name].to_list() for name in over.columns))


def _draw(axes: Any, curve: Curve, place: int, width: float) -> None:
    look = _look(place)
    axes.fill_between(curve.x, curve.low, curve.high, color=look["color"], alpha=0.16, linewidth=0)
    marker = "o" if len(curve.x) <= 30 else ""
    axes.plot(curve.x, curve.mean, linewidth=width, marker=marker, markersize=3, zorder=height(width), **look)
