"""Lines over training, a few in each panel, with the others in grey behind them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hpcbench.report.cells import Row
from hpcbench.report.plots.style import COLOURS, GREY, PLOT_IN, figure, name_legend, names_width_in

LINES_PER_PANEL = len(COLOURS)
PANEL_IN = 2.9
LINE_WIDTH, STRIPE_WIDTH = 1.4, 1.1  # in points
COINCIDE = 0.01  # of the height of all curves: closer ones could not be told apart


@dataclass(frozen=True)
class Curve:
    """A line, and the band that all repeats lie in."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def draw_panels(
    title: str, rows: list[Row], curve: Callable[[Row], Curve], x_label: str, y_label: str
) -> tuple[Figure, list[Axes]]:
    """Draw the curve of each row; panels share their axes, so that they can be compared."""
    curves = [curve(row) for row in rows]
    names = [row["experiment"] for row in rows]
    starts = panel_starts(len(rows))
    panels = len(starts) - 1
    drawn = figure(
        PLOT_IN + names_width_in(names) + 0.8, (4.0 if panels == 1 else PANEL_IN * panels + 0.8), title
    )
    grid = drawn.subplots(panels, 1, sharex=True, sharey=True, squeeze=False)
    marker = "o" if max(len(c.x) for c in curves) <= 30 else ""
    for panel, axes in enumerate(grid[:, 0]):
        mine = range(starts[panel], starts[panel + 1])
        for other in (i for i in range(len(rows)) if i not in mine):
            axes.plot(curves[other].x, curves[other].mean, color=GREY, alpha=0.3, linewidth=0.7, zorder=1)
        widths = line_widths([curves[i] for i in mine])
        lines = [
            _draw_curve(axes, curves[i], COLOURS[i - mine.start], marker, width)
            for i, width in zip(mine, widths, strict=True)
        ]
        name_legend(axes, lines, [names[i] for i in mine])
        axes.set_ylabel(y_label)
        axes.grid(color="0.92")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    known = {x for each in curves for x in each.x}
    if len(known) == 1:  # matplotlib would invent fractions of an epoch around a single point
        grid[-1, 0].set_xlim(min(known) - 1, max(known) + 1)
    grid[-1, 0].set_xlabel(x_label)
    return drawn, list(grid[:, 0])


def line_widths(curves: Sequence[Curve]) -> list[float]:
    """Return the width of each line, drawn in this order: what later ones would hide shows as stripes."""
    known = [y for curve in curves for y in curve.mean if math.isfinite(y)]
    near = COINCIDE * (max(known) - min(known)) if known else 0.0
    return [
        LINE_WIDTH + STRIPE_WIDTH * sum(_coincide(curve, other, near) for other in curves[place + 1 :])
        for place, curve in enumerate(curves)
    ]


def height(width: float) -> float:
    """Return where a line lies, between bands and points: the wider, the further below."""
    return 3 + LINE_WIDTH / width


def _coincide(first: Curve, second: Curve, near: float) -> bool:
    pairs = zip(first.mean, second.mean, strict=False)
    return list(first.x) == list(second.x) and all(abs(a - b) <= near for a, b in pairs)


def panel_starts(lines: int) -> list[int]:
    """Return where each panel's lines begin, and the end: as even as they can be."""
    panels = -(-lines // LINES_PER_PANEL)
    return [panel * lines // panels for panel in range(panels + 1)]


def _draw_curve(axes: Axes, curve: Curve, colour: str, marker: str, width: float) -> Line2D:
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    (line,) = axes.plot(
        curve.x,
        curve.mean,
        color=colour,
        linewidth=width,
        marker=marker,
        markersize=3.5,
        zorder=height(width),
    )
    return line
