"""Pictures of time: seconds per epoch, the phases of training, and the whole lifetime of the processes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hpcbench.analysis.figure_registry import LIFETIME_PARTS, ReportRow
from hpcbench.report.plots.plot_bars import BarPart, stacked_bars
from hpcbench.report.plots.plot_style import (
    BLUE,
    GREEN,
    ORANGE,
    PURPLE,
    SKY,
    VERMILION,
    names_width_in,
    new_figure,
    shorten_name,
)
from hpcbench.report.scenes import Scene
from hpcbench.report.table_cells import LIFETIME_NAMES, PHASE_NAMES, format_number
from hpcbench.runs.events import PHASES


def draw_epoch_time(scene: Scene) -> Figure | None:
    """Draw stacked bars, mean over epochs and repeats."""
    rows = scene.with_values(scene.epochs, "epoch_time_s")
    if not rows:
        return None
    return stacked_bars(
        [row["experiment"] for row in rows],
        {
            "train": BarPart(scene.language.text("training"), BLUE, "white"),
            "evaluation": BarPart(scene.language.text("evaluation"), ORANGE),
        },
        [_epoch_parts(scene, row) for row in rows],
        scene.language.text("Time per epoch (s)"),
        unit=" s",
    )


def _epoch_parts(scene: Scene, row: ReportRow) -> dict[str, float]:
    means = scene.of(row, scene.epochs)[["epoch_time_s", "train_s"]].astype(float).mean()
    # Of the slowest rank: what of its epoch is not training is evaluation.
    train = min(float(means["train_s"]), float(means["epoch_time_s"]))
    return {"train": train, "evaluation": float(means["epoch_time_s"]) - train}


PHASE_ROW_IN = 0.32
LEGIBLE_PCT = 5  # a narrower segment has no room for its figure

PHASE_COLOURS = {
    "data_wait": (ORANGE, "black"),
    "forward_backward": (BLUE, "white"),
    "exchange": (VERMILION, "black"),
    "update": (GREEN, "black"),
    "other": ("#BBBBBB", "black"),
}


@dataclass(frozen=True)
class PhaseSeconds:
    """The phases of an experiment in seconds for 1,000 samples, mean over ranks and repeats."""

    seconds: dict[str, float]

    @property
    def whole(self) -> float:
        """All phases together: they partition the time."""
        return sum(self.seconds.values())


def draw_phases(scene: Scene) -> Figure | None:
    """Draw two stacked bars for each experiment."""
    rows = [row for row in scene.rows if _phase_seconds(scene, row).whole > 0]
    if not rows:
        return None
    bars = [_phase_seconds(scene, row) for row in rows]
    names = [row["experiment"] for row in rows]
    drawn = new_figure(9.5 + names_width_in(names), 1.7 + PHASE_ROW_IN * len(rows))
    shares, seconds = drawn.subplots(1, 2, sharey=True)
    for place, bar in enumerate(bars):
        _draw_phase_bar(
            shares, place, {phase: 100 * s / bar.whole for phase, s in bar.seconds.items()}, written=True
        )
        _draw_phase_bar(seconds, place, bar.seconds, written=False)
        seconds.text(bar.whole, place, f" {format_number(bar.whole)} s", va="center", fontsize=8)
    shares.set_xlim(0, 100)
    shares.set_xlabel(scene.language.text("Share of training time (%)"))
    seconds.set_xlim(0, 1.18 * max(bar.whole for bar in bars))
    seconds.set_xlabel(scene.language.text("Time for 1,000 {unit} (s)", unit=scene.unit))
    shares.set_ylim(len(rows) - 0.4, -0.6)
    shares.set_yticks(range(len(rows)), [shorten_name(name) for name in names])
    for axes in (shares, seconds):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9")
    handles = [
        Patch(color=colour, label=scene.language.text(PHASE_NAMES[name]))
        for name, (colour, _) in PHASE_COLOURS.items()
    ]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return drawn


def _phase_seconds(scene: Scene, row: ReportRow) -> PhaseSeconds:
    runs = scene.of(row, scene.runs)
    samples = float(runs["counted_samples"].sum())
    if not samples:
        return PhaseSeconds(dict.fromkeys(PHASES, 0.0))
    return PhaseSeconds({phase: 1000 * float(runs[f"{phase}_s"].sum()) / samples for phase in PHASES})


def _draw_phase_bar(axes: Any, place: int, lengths: dict[str, float], *, written: bool) -> None:
    left = 0.0
    for phase, length in lengths.items():
        colour, ink = PHASE_COLOURS[phase]
        axes.barh(place, length, left=left, height=0.68, color=colour, edgecolor="white", linewidth=0.5)
        if written and length >= LEGIBLE_PCT:
            axes.text(
                left + length / 2, place, f"{length:.0f}", va="center", ha="center", color=ink, fontsize=8
            )
        left += length


LIFETIME_COLOURS = {
    "startup": (SKY, "black"), "train": (BLUE, "white"), "evaluation": (ORANGE, "black"),
    "check": (PURPLE, "black"),
    "checkpoint": (GREEN, "black"), "other": ("#BBBBBB", "black"),
}  # fmt: skip


def draw_lifetime(scene: Scene) -> Figure | None:
    """Draw stacked bars in seconds, mean over repeats, of the rank that ended last."""
    rows = scene.with_values(scene.runs, "life_train_s")
    if not rows:
        return None
    return stacked_bars(
        [row["experiment"] for row in rows],
        {
            part: BarPart(scene.language.text(LIFETIME_NAMES[part]), *LIFETIME_COLOURS[part])
            for part in LIFETIME_PARTS
        },
        [_lifetime_parts(scene, row) for row in rows],
        scene.language.text("Time (s)"),
        unit=" s",
    )


def _lifetime_parts(scene: Scene, row: ReportRow) -> dict[str, float]:
    runs = scene.of(row, scene.runs)
    return {part: float(runs[f"life_{part}_s"].astype(float).mean()) for part in LIFETIME_PARTS}
