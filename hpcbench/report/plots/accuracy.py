"""Validation accuracy after each epoch."""

from __future__ import annotations

from matplotlib.figure import Figure

from hpcbench.report.cells import Row
from hpcbench.report.plots.curves import Curve, draw_panels
from hpcbench.report.plots.scene import Scene


def draw_accuracy(scene: Scene) -> Figure | None:
    """Draw the mean over repeats, in a band from the worst repeat to the best."""
    rows = scene.with_values(scene.epochs, "acc_pct")
    if not rows:
        return None

    def curve(row: Row) -> Curve:
        known = scene.of(row, scene.epochs).dropna(subset=["acc_pct"])
        over = known.groupby("epoch")["acc_pct"].agg(["mean", "min", "max"]).astype(float)
        return Curve(
            over.index.to_list(), over["mean"].to_list(), over["min"].to_list(), over["max"].to_list()
        )

    drawn, _ = draw_panels(
        f"{scene.words.captions['accuracy']} – {scene.title}",
        rows,
        curve,
        f"{scene.words.labels['epoch']} ({scene.words.labels['band']})",
        scene.words.labels["validation_pct"],
    )
    return drawn
