"""Pictures of learning: validation accuracy over epochs, accuracy over steps, training loss over steps."""

from __future__ import annotations

import bisect

import pandas as pd
from matplotlib.figure import Figure

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.plot_curves import (
    BAND_EXPLANATION,
    EPOCH_END_EXPLANATION,
    StepAxis,
    draw_curve_panels,
    epoch_curve,
    panel_starts,
)
from hpcbench.report.plots.plot_style import COLOURS
from hpcbench.report.scenes import Scene


def draw_accuracy(scene: Scene) -> Figure | None:
    """Draw the mean over repeats, in a band from the worst repeat to the best."""
    rows = scene.with_values(scene.epochs, "acc_pct")
    if not rows:
        return None
    drawn, _ = draw_curve_panels(
        rows,
        lambda row: epoch_curve(scene, row, "acc_pct"),
        f"{scene.language.text('Epoch')} ({scene.language.text(BAND_EXPLANATION)})",
        scene.language.text("Validation accuracy (%)"),
    )
    return drawn


def draw_learning(scene: Scene) -> Figure | None:
    """Draw training accuracy as lines over steps, validation accuracy as points at the ends of epochs."""
    rows = scene.with_values(scene.steps, "acc_pct")
    if not rows or any(row["steps_per_epoch"] is None for row in rows):
        return None
    axis = StepAxis.of(scene, rows)
    lines = f"{scene.language.text('training')}: {scene.language.in_context('drawn', 'lines')}"
    points = f"{scene.language.text('validation')}: ◆"
    drawn, panels = draw_curve_panels(
        rows,
        lambda row: axis.curve(row, "acc_pct"),
        f"{axis.label}\n{lines}; {points}; {scene.language.text(EPOCH_END_EXPLANATION)}",
        scene.language.text("Accuracy (%)"),
    )
    starts = panel_starts(len(rows))
    for place, row in enumerate(rows):
        panel = bisect.bisect_right(starts, place) - 1
        x, means = _validation_points(scene, row, row["steps_per_epoch"] if axis.counts_steps else 1)
        panels[panel].plot(
            x,
            means,
            color=COLOURS[place - starts[panel]],
            marker="D",
            markersize=5,
            markeredgecolor="black",
            linestyle="",
            zorder=5,
        )
    for axes in panels:
        axis.mark_epochs(axes)
    return drawn


def _validation_points(scene: Scene, row: ReportRow, epoch_length: int) -> tuple[list[int], list[float]]:
    """Return the ends of epochs and the mean accuracy over repeats at each."""
    known = scene.of(row, scene.epochs).dropna(subset=["acc_pct"])
    means = known.groupby("epoch")["acc_pct"].mean().astype(float)
    return [int(epoch) * epoch_length for epoch in means.index], means.to_list()


LOGARITHMIC_ABOVE = 50  # times the loss that a quarter of the steps are below


def draw_loss(scene: Scene) -> Figure | None:
    """Draw the mean over repeats, over steps; or over epochs, where these differ in length."""
    rows = scene.with_values(scene.steps, "loss")
    if not rows:
        return None
    axis = StepAxis.of(scene, rows)
    explanation = "; ".join(map(scene.language.text, (BAND_EXPLANATION, EPOCH_END_EXPLANATION)))
    drawn, panels = draw_curve_panels(
        rows,
        lambda row: axis.curve(row, "loss"),
        f"{axis.label}\n{explanation}",
        scene.language.text("Training loss (mean per sample)"),
    )
    for axes in panels:
        if needs_logarithmic_scale(scene.steps["loss"]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.mark_epochs(axes)
    return drawn


def needs_logarithmic_scale(losses: pd.Series[float]) -> bool:
    """Say whether a scale from 0 would show most of these as a flat line; a logarithmic one has no 0."""
    known = losses.dropna()
    return bool(len(known) and known.min() > 0 and known.max() > LOGARITHMIC_ABOVE * known.quantile(0.25))
