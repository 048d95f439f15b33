"""Seconds per epoch: training and evaluation."""

from __future__ import annotations

from matplotlib.figure import Figure

from hpcbench.report.cells import Row
from hpcbench.report.plots.bars import Part, stacked_bars
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import BLUE, ORANGE


def draw_epoch_time(scene: Scene) -> Figure | None:
    """Draw stacked bars, mean over epochs and repeats."""
    rows = scene.with_values(scene.epochs, "epoch_time_s")
    if not rows:
        return None
    words = scene.words.labels
    return stacked_bars(
        f"{scene.words.captions['epochtime']} – {scene.title}",
        [row["experiment"] for row in rows],
        {"train": Part(words["training"], BLUE, "white"), "evaluation": Part(words["evaluation"], ORANGE)},
        [_parts(scene, row) for row in rows],
        words["seconds_per_epoch"],
        unit=" s",
    )


def _parts(scene: Scene, row: Row) -> dict[str, float]:
    means = scene.of(row, scene.epochs)[["epoch_time_s", "train_s"]].astype(float).mean()
    # Of the slowest rank: what of its epoch is not training is evaluation.
    train = min(float(means["train_s"]), float(means["epoch_time_s"]))
    return {"train": train, "evaluation": float(means["epoch_time_s"]) - train}
