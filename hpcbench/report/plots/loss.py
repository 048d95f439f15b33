"""Training loss over the steps, with the epochs marked."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from hpcbench.report.plots.curves import draw_panels
from hpcbench.report.plots.over_steps import StepAxis
from hpcbench.report.plots.scene import Scene

DECADES = 50  # times the loss that a quarter of the steps are below


def draw_loss(scene: Scene) -> Figure | None:
    """Draw the mean over repeats, over steps; or over epochs, where these differ in length."""
    rows = scene.with_values(scene.steps, "loss")
    if not rows:
        return None
    axis = StepAxis.of(scene, rows)
    words = scene.words.labels
    drawn, panels = draw_panels(
        f"{scene.words.captions['loss']} – {scene.title}",
        rows,
        lambda row: axis.curve(row, "loss"),
        f"{axis.label}\n{words['band']}; {words['dotted']}",
        words["per_sample"],
    )
    for axes in panels:
        if spans_decades(scene.steps["loss"]):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.mark_epochs(axes)
    return drawn


def spans_decades(losses: pd.Series[float]) -> bool:
    """Say whether a scale from 0 would show most of these as a flat line; a logarithmic one has no 0."""
    known = losses.dropna()
    return bool(len(known) and known.min() > 0 and known.max() > DECADES * known.quantile(0.25))
