"""Curves over training: a few in each panel with the others in grey behind, and the axis of steps or
epochs that they share.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.plot_style import COLOURS, GREY, PLOT_IN, name_legend, names_width_in, new_figure
from hpcbench.report.scenes import Scene
from hpcbench.report.translations import N_

BAND_EXPLANATION = N_("line: mean over repeats; band: lowest to highest")
EPOCH_END_EXPLANATION = N_("dotted: end of an epoch")
LINES_PER_PANEL = len(COLOURS)
PANEL_HEIGHT_IN = 2.9
LINE_WIDTH, STRIPE_WIDTH = 1.4, 1.1  # in points
COINCIDING_SHARE = 0.01  # of the height of all curves: closer ones cannot be distinguished


@dataclass(frozen=True)
class TrainingCurve:
    """A line, and the band that all repeats lie in."""

    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def curve_over_repeats(groups: Any) -> TrainingCurve:
    """Return mean, lowest and highest value of each group of a series; groups are named by their x."""
    over = groups.agg(["mean", "min", "max"]).astype(float)
    return TrainingCurve(over.index.to_list(), *(over[name].to_list() for name in ("mean", "min", "max")))


def epoch_curve(scene: Scene, row: ReportRow, column: str) -> TrainingCurve:
    """Return the curve of a column over epochs."""
    known = scene.of(row, scene.epochs).dropna(subset=[column])
    return curve_over_repeats(known.groupby("epoch")[column])


def draw_curve_panels(
    rows: list[ReportRow], curve: Callable[[ReportRow], TrainingCurve], x_label: str, y_label: str
) -> tuple[Figure, list[Axes]]:
    """Draw the curve of each row; panels share their axes, so that they can be compared."""
    curves = [curve(row) for row in rows]
    names = [row["experiment"] for row in rows]
    starts = panel_starts(len(rows))
    panels = len(starts) - 1
    drawn = new_figure(
        PLOT_IN + names_width_in(names) + 0.8, (4.0 if panels == 1 else PANEL_HEIGHT_IN * panels + 0.8)
    )
    grid = drawn.subplots(panels, 1, sharex=True, sharey=True, squeeze=False)
    marker = "o" if max(len(c.x) for c in curves) <= 30 else ""
    for panel, axes in enumerate(grid[:, 0]):
        members = range(starts[panel], starts[panel + 1])
        for other in (i for i in range(len(rows)) if i not in members):
            axes.plot(curves[other].x, curves[other].mean, color=GREY, alpha=0.3, linewidth=0.7, zorder=1)
        widths = line_widths([curves[i] for i in members])
        lines = [
            _draw_curve(axes, curves[i], COLOURS[i - members.start], marker, width)
            for i, width in zip(members, widths, strict=True)
        ]
        name_legend(axes, lines, [names[i] for i in members])
        axes.set_ylabel(y_label)
        axes.grid(color="0.92")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    known = {x for each in curves for x in each.x}
    if len(known) == 1:  # matplotlib would invent fractions of an epoch around a single point
        grid[-1, 0].set_xlim(min(known) - 1, max(known) + 1)
    grid[-1, 0].set_xlabel(x_label)
    return drawn, list(grid[:, 0])


def line_widths(curves: Sequence[TrainingCurve]) -> list[float]:
    """Return the width of each line, drawn in this order: what later ones would hide shows as stripes."""
    known = [y for curve in curves for y in curve.mean if math.isfinite(y)]
    near = COINCIDING_SHARE * (max(known) - min(known)) if known else 0.0
    return [
        LINE_WIDTH + STRIPE_WIDTH * sum(_curves_coincide(curve, other, near) for other in curves[place + 1 :])
        for place, curve in enumerate(curves)
    ]


def line_zorder(width: float) -> float:
    """Return where a line lies, between bands and points: the wider, the further below."""
    return 3 + LINE_WIDTH / width


def _curves_coincide(first: TrainingCurve, second: TrainingCurve, near: float) -> bool:
    pairs = zip(first.mean, second.mean, strict=False)
    return list(first.x) == list(second.x) and all(abs(a - b) <= near for a, b in pairs)


def panel_starts(lines: int) -> list[int]:
    """Return where each panel's lines begin, and the end: as even as they can be."""
    panels = -(-lines // LINES_PER_PANEL)
    return [panel * lines // panels for panel in range(panels + 1)]


def _draw_curve(axes: Axes, curve: TrainingCurve, colour: str, marker: str, width: float) -> Line2D:
    axes.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.18, linewidth=0, zorder=2)
    (line,) = axes.plot(
        curve.x,
        curve.mean,
        color=colour,
        linewidth=width,
        marker=marker,
        markersize=3.5,
        zorder=line_zorder(width),
    )
    return line


MOST_STEP_POINTS = 150  # a line of more is noise to the eye
MOST_EPOCH_LINES = 60


@dataclass(frozen=True)
class StepAxis:
    """An axis of steps in bins; of epochs where these differ in length and so end at different steps.

    `epoch_length` is that of an epoch on this axis, None where it is not known.
    """

    scene: Scene
    counts_steps: bool
    bin_steps: int
    epoch_length: int | None

    @classmethod
    def of(cls, scene: Scene, rows: Sequence[ReportRow]) -> StepAxis:
        """Return the axis on which all of some rows can be drawn."""
        lengths = {row["steps_per_epoch"] for row in rows}
        counts_steps = len(lengths) == 1 or None in lengths
        return cls(
            scene=scene,
            counts_steps=counts_steps,
            bin_steps=max(1, -(-int(scene.steps["step"].max() + 1) // MOST_STEP_POINTS)),
            epoch_length=(lengths.pop() if len(lengths) == 1 else None) if counts_steps else 1,
        )

    def curve(self, row: ReportRow, column: str) -> TrainingCurve:
        """Return the mean of a column in each bin over repeats, with the smallest and the largest."""
        known = self.scene.of(row, self.scene.steps).dropna(subset=[column])
        bins = (known["step"] // self.bin_steps).rename("bin")
        repeats = known.groupby(["repeat", bins])[column].mean()
        over = curve_over_repeats(repeats.groupby("bin"))
        middles = [float(number) * self.bin_steps + (self.bin_steps + 1) / 2 for number in over.x]
        x = middles if self.counts_steps else [step / row["steps_per_epoch"] for step in middles]
        return replace(over, x=x)

    @property
    def label(self) -> str:
        """What the axis counts."""
        if not self.counts_steps:
            return self.scene.language.text("Epochs trained")
        if self.bin_steps > 1:
            return self.scene.language.text("Training step (each point: mean of {n} steps)", n=self.bin_steps)
        return self.scene.language.text("Training step")

    def mark_epochs(self, axes: Axes) -> None:
        """Draw a dotted line where each epoch ends, every so many where they are too many to see."""
        if not self.epoch_length:
            return
        low, high = axes.get_xlim()
        epochs = int(high // self.epoch_length)
        every = max(1, -(-epochs // MOST_EPOCH_LINES))
        for epoch in range(every, epochs + 1, every):
            axes.axvline(epoch * self.epoch_length, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        axes.set_xlim(low, high)
