"""Accuracy over the steps of training, with the ends of the epochs marked: training and validation."""

from __future__ import annotations

import bisect

from matplotlib.figure import Figure

from hpcbench.report.cells import Row
from hpcbench.report.plots.curves import Curve, draw_panels, panel_starts
from hpcbench.report.plots.loss import MOST_POINTS, mark_epochs
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import COLOURS


def draw_learning(scene: Scene) -> Figure | None:
    """Draw training accuracy as lines over steps, validation accuracy as points at the ends of epochs."""
    rows = scene.with_values(scene.steps, "acc_pct")
    lengths = {row["steps_per_epoch"] for row in rows}
    if not rows or None in lengths:
        return None
    # Epochs of different lengths end at different steps: the axis then counts epochs.
    in_steps = len(lengths) == 1
    bin_steps = max(1, -(-int(scene.steps["step"].max() + 1) // MOST_POINTS))
    words = scene.words.labels

    def curve(row: Row) -> Curve:
        known = scene.of(row, scene.steps).dropna(subset=["acc_pct"])
        bins = (known["step"] // bin_steps).rename("bin")
        repeats = known.groupby(["repeat", bins])["acc_pct"].mean()
        over = repeats.groupby("bin").agg(["mean", "min", "max"]).astype(float)
        steps = [float(number) * bin_steps + (bin_steps + 1) / 2 for number in over.index]
        x = steps if in_steps else [step / row["steps_per_epoch"] for step in steps]
        return Curve(x, over["mean"].to_list(), over["min"].to_list(), over["max"].to_list())

    x_label = words["step_bins"].format(n=bin_steps) if in_steps else words["epochs_trained"]
    drawn, panels = draw_panels(
        f"{scene.words.captions['learning']} – {scene.title}", rows, curve,
        f"{x_label}\n{words['train_acc']}: {words['line']}; {words['validation_acc']}: ◆; {words['dotted']}",
        words["acc_short"],
    )  # fmt: skip
    starts = panel_starts(len(rows))
    for place, row in enumerate(rows):
        panel = bisect.bisect_right(starts, place) - 1
        known = scene.of(row, scene.epochs).dropna(subset=["acc_pct"])
        means = known.groupby("epoch")["acc_pct"].mean().astype(float)
        x = [int(epoch) * (row["steps_per_epoch"] if in_steps else 1) for epoch in means.index]
        colour = COLOURS[place - starts[panel]]
        panels[panel].plot(
            x,
            means.to_list(),
            color=colour,
            marker="D",
            markersize=5,
            markeredgecolor="black",
            linestyle="",
            zorder=5,
        )
    length = lengths.pop() if in_steps else 1
    for axes in panels:
        mark_epochs(axes, length)
    return drawn
