"""Time accounting: where the time of a run went, from the start of its processes to their end."""

from __future__ import annotations

from matplotlib.figure import Figure

from hpcbench.analysis.result_columns import LIFETIME_PARTS
from hpcbench.report.cells import Row
from hpcbench.report.plots.bars import Part, stacked_bars
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import BLUE, GREEN, ORANGE, PURPLE, SKY

LOOKS = {
    "startup": (SKY, "black"), "train": (BLUE, "white"), "evaluation": (ORANGE, "black"),
    "check": (PURPLE, "black"),
    "checkpoint": (GREEN, "black"), "other": ("#BBBBBB", "black"),
}  # fmt: skip


def draw_life(scene: Scene) -> Figure | None:
    """Draw stacked bars in seconds, mean over repeats, of the rank that ended last."""
    rows = scene.with_values(scene.runs, "life_train_s")
    if not rows:
        return None
    return stacked_bars(
        f"{scene.words.captions['time']} – {scene.title}",
        [row["experiment"] for row in rows],
        {part: Part(scene.words.life[part], *LOOKS[part]) for part in LIFETIME_PARTS},
        [_parts(scene, row) for row in rows],
        scene.words.labels["seconds"],
        unit=" s",
    )


def _parts(scene: Scene, row: Row) -> dict[str, float]:
    runs = scene.of(row, scene.runs)
    return {part: float(runs[f"life_{part}_s"].astype(float).mean()) for part in LIFETIME_PARTS}
