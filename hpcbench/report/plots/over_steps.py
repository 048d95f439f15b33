"""What pictures over training steps share: bins, the means in them, and where epochs end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

from hpcbench.report.cells import Row
from hpcbench.report.plots.curves import Curve
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import GREY

MOST_POINTS = 150  # a line of more is noise to the eye
MOST_BOUNDARIES = 60


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
    def of(cls, scene: Scene, rows: Sequence[Row]) -> StepAxis:
        """Return the axis on which all of some rows can be drawn."""
        lengths = {row["steps_per_epoch"] for row in rows}
        counts_steps = len(lengths) == 1 or None in lengths
        return cls(
            scene=scene,
            counts_steps=counts_steps,
            bin_steps=max(1, -(-int(scene.steps["step"].max() + 1) // MOST_POINTS)),
            epoch_length=(lengths.pop() if len(lengths) == 1 else None) if counts_steps else 1,
        )

    def curve(self, row: Row, column: str) -> Curve:
        """Return the mean of a column in each bin over repeats, with the smallest and the largest."""
        known = self.scene.of(row, self.scene.steps).dropna(subset=[column])
        bins = (known["step"] // self.bin_steps).rename("bin")
        repeats = known.groupby(["repeat", bins])[column].mean()
        over = repeats.groupby("bin").agg(["mean", "min", "max"]).astype(float)
        middles = [float(number) * self.bin_steps + (self.bin_steps + 1) / 2 for number in over.index]
        x = middles if self.counts_steps else [step / row["steps_per_epoch"] for step in middles]
        return Curve(x, over["mean"].to_list(), over["min"].to_list(), over["max"].to_list())

    @property
    def label(self) -> str:
        """What the axis counts."""
        words = self.scene.words.labels
        if not self.counts_steps:
            return words["epochs_trained"]
        return words["step_bins" if self.bin_steps > 1 else "step"].format(n=self.bin_steps)

    def mark_epochs(self, axes: Axes) -> None:
        """Draw a dotted line where each epoch ends, every so many where they are too many to see."""
        if not self.epoch_length:
            return
        low, high = axes.get_xlim()
        epochs = int(high // self.epoch_length)
        every = max(1, -(-epochs // MOST_BOUNDARIES))
        for epoch in range(every, epochs + 1, every):
            axes.axvline(epoch * self.epoch_length, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        axes.set_xlim(low, high)
