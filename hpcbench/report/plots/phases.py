"""Where the time of training goes: the five phases as shares and as seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Patch

from hpcbench.analysis.result_columns import PHASES
from hpcbench.report.cells import Row, number
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import BLUE, GREEN, ORANGE, VERMILION, figure, names_width_in, shown

ROW_IN = 0.32
LEGIBLE_PCT = 5  # a narrower segment has no room for its figure

LOOKS = {
    "data_wait": (ORANGE, "black"),
    "forward_backward": (BLUE, "white"),
    "exchange": (VERMILION, "black"),
    "update": (GREEN, "black"),
    "other": ("#BBBBBB", "black"),
}


@dataclass(frozen=True)
class Bar:
    """The phases of an experiment in seconds for 1,000 samples, mean over ranks and repeats."""

    seconds: dict[str, float]

    @property
    def whole(self) -> float:
        """All phases together: they partition the time."""
        return sum(self.seconds.values())


def draw_phases(scene: Scene) -> Figure | None:
    """Draw two stacked bars for each experiment."""
    rows = [row for row in scene.rows if _bar(scene, row).whole > 0]
    if not rows:
        return None
    bars = [_bar(scene, row) for row in rows]
    names = [row["experiment"] for row in rows]
    drawn = figure(
        9.5 + names_width_in(names),
        1.7 + ROW_IN * len(rows),
        f"{scene.words.captions['phases']} – {scene.title}",
    )
    shares, seconds = drawn.subplots(1, 2, sharey=True)
    for place, bar in enumerate(bars):
        _stack(shares, place, {phase: 100 * s / bar.whole for phase, s in bar.seconds.items()}, written=True)
        _stack(seconds, place, bar.seconds, written=False)
        seconds.text(bar.whole, place, f" {number(bar.whole)} s", va="center", fontsize=8)
    shares.set_xlim(0, 100)
    shares.set_xlabel(scene.words.labels["share_training_pct"])
    seconds.set_xlim(0, 1.18 * max(bar.whole for bar in bars))
    seconds.set_xlabel(scene.words.labels["thousand"].format(unit=scene.unit))
    shares.set_ylim(len(rows) - 0.4, -0.6)
    shares.set_yticks(range(len(rows)), [shown(name) for name in names])
    for axes in (shares, seconds):
        axes.tick_params(axis="y", length=0)
        axes.grid(axis="x", color="0.9")
    handles = [Patch(color=colour, label=scene.words.phases[name]) for name, (colour, _) in LOOKS.items()]
    drawn.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    return drawn


def _bar(scene: Scene, row: Row) -> Bar:
    runs = scene.of(row, scene.runs)
    samples = float(runs["counted_samples"].sum())
    if not samples:
        return Bar(dict.fromkeys(PHASES, 0.0))
    return Bar({phase: 1000 * float(runs[f"{phase}_s"].sum()) / samples for phase in PHASES})


def _stack(axes: Any, place: int, lengths: dict[str, float], *, written: bool) -> None:
    left = 0.0
    for phase, length in lengths.items():
        colour, ink = LOOKS[phase]
        axes.barh(place, length, left=left, height=0.68, color=colour, edgecolor="white", linewidth=0.5)
        if written and length >= LEGIBLE_PCT:
            axes.text(
                left + length / 2, place, f"{length:.0f}", va="center", ha="center", color=ink, fontsize=8
            )
        left += length
