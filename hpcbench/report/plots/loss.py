"""Training loss over the steps, with the epochs marked."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from hpcbench.report.cells import Row
from hpcbench.report.plots.curves import Curve, draw_panels
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import GREY

MOST_POINTS = 150  # a line of more is noise to the eye
MOST_BOUNDARIES = 60
DECADES = 50  # times the loss that a quarter of the steps are below


def draw_loss(scene: Scene) -> Figure | None:
    """Draw the mean over repeats, over steps; or over epochs, where these differ in length."""
    rows = scene.with_values(scene.steps, "loss")
    if not rows:
        return None
    lengths = {row["steps_per_epoch"] for row in rows}
    in_steps = len(lengths) == 1 or None in lengths
    bin_steps = max(1, -(-int(scene.steps["step"].max() + 1) // MOST_POINTS))

    def curve(row: Row) -> Curve:
        known = scene.of(row, scene.steps).dropna(subset=["loss"])
        bins = (known["step"] // bin_steps).rename("bin")
        repeats = known.groupby(["repeat", bins])["loss"].mean()
        over = repeats.groupby("bin").agg(["mean", "min", "max"]).astype(float)
        steps = [float(number) * bin_steps + (bin_steps + 1) / 2 for number in over.index]
        x = steps if in_steps else [step / row["steps_per_epoch"] for step in steps]
        return Curve(x, over["mean"].to_list(), over["min"].to_list(), over["max"].to_list())

    words = scene.words.labels
    what = (
        words["step_bins" if bin_steps > 1 else "step"].format(n=bin_steps)
        if in_steps
        else words["epochs_trained"]
    )
    drawn, panels = draw_panels(
        f"{scene.words.captions['loss']} – {scene.title}",
        rows,
        curve,
        f"{what}\n{words['band']}; {words['dotted']}",
        words["per_sample"],
    )
    if spans_decades(scene.steps["loss"]):
        for axes in panels:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    length = lengths.pop() if len(lengths) == 1 else None
    for axes in panels:
        mark_epochs(axes, length if in_steps else 1)
    return drawn


def spans_decades(losses: pd.Series[float]) -> bool:
    """Say whether a scale from 0 would show most of these as a flat line; a logarithmic one has no 0."""
    known = losses.dropna()
    return bool(len(known) and known.min() > 0 and known.max() > DECADES * known.quantile(0.25))


def mark_epochs(axes: Axes, length: int | None) -> None:
    """Draw a dotted line where each epoch ends, every so many where they are too many to see."""
    if not length:
        return
    low, high = axes.get_xlim()
    epochs = int(high // length)
    every = max(1, -(-epochs // MOST_BOUNDARIES))
    for epoch in range(every, epochs + 1, every):
        axes.axvline(epoch * length, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
    axes.set_xlim(low, high)
