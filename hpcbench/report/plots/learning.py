"""Accuracy over the steps of training, with the ends of the epochs marked: training and validation."""

from __future__ import annotations

import bisect

from matplotlib.figure import Figure

from hpcbench.report.cells import Row
from hpcbench.report.plots.curves import draw_panels, panel_starts
from hpcbench.report.plots.over_steps import StepAxis
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import COLOURS


def draw_learning(scene: Scene) -> Figure | None:
    """Draw training accuracy as lines over steps, validation accuracy as points at the ends of epochs."""
    rows = scene.with_values(scene.steps, "acc_pct")
    if not rows or any(row["steps_per_epoch"] is None for row in rows):
        return None
    axis = StepAxis.of(scene, rows)
    words = scene.words.labels
    lines = f"{words['train_acc']}: {words['line']}"
    points = f"{words['validation_acc']}: ◆"
    drawn, panels = draw_panels(
        f"{scene.words.captions['learning']} – {scene.title}",
        rows,
        lambda row: axis.curve(row, "acc_pct"),
        f"{axis.label}\n{lines}; {points}; {words['dotted']}",
        words["acc_short"],
    )
    starts = panel_starts(len(rows))
    for place, row in enumerate(rows):
        panel = bisect.bisect_right(starts, place) - 1
        x, means = _validation(scene, row, row["steps_per_epoch"] if axis.counts_steps else 1)
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


def _validation(scene: Scene, row: Row, epoch_length: int) -> tuple[list[int], list[float]]:
    """Return the ends of epochs and the mean accuracy over repeats at each."""
    known = scene.of(row, scene.epochs).dropna(subset=["acc_pct"])
    means = known.groupby("epoch")["acc_pct"].mean().astype(float)
    return [int(epoch) * epoch_length for epoch in means.index], means.to_list()
