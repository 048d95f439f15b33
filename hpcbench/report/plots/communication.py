"""Communication overhead: what of a step is exchange, push and pull of a parameter server apart."""

from __future__ import annotations

from matplotlib.figure import Figure

from hpcbench.analysis.figures import PHASES
from hpcbench.report.cells import Row
from hpcbench.report.plots.bars import Part, stacked_bars
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import ORANGE, PURPLE, VERMILION


def draw_communication(scene: Scene) -> Figure | None:
    """Draw the time of a step, mean over counted steps, ranks and repeats; None where nobody communicates.

    What overlaps with the backward pass is inside the rest: a phase timer cannot see it (MEASURING rule 7).
    """
    rows = [row for row in scene.rows if _parts(scene, row)]
    lengths = [_parts(scene, row) for row in rows]
    if not any(each["exchange"] + each["push"] + each["pull"] > 0 for each in lengths):
        return None
    words = scene.words.labels
    parts = {
        "exchange": Part(words["exchange"], VERMILION),
        "push": Part(words["push"], ORANGE),
        "pull": Part(words["pull"], PURPLE),
        "rest": Part(words["rest_of_step"], "#D0D0D0"),
    }
    return stacked_bars(
        f"{scene.words.captions['communication']} – {scene.title}",
        [row["experiment"] for row in rows], parts, lengths, words["per_step_ms"], unit=" ms",
    )  # fmt: skip


def _parts(scene: Scene, row: Row) -> dict[str, float]:
    runs = scene.of(row, scene.runs)
    steps = float(runs["counted_steps"].sum())
    if not steps:
        return {}
    told = ["exchange_s", "push_s", "pull_s"]
    exchange, push, pull = (1000 * float(runs[name].fillna(0).sum()) / steps for name in told)
    whole = sum(1000 * float(runs[f"{phase}_s"].sum()) / steps for phase in PHASES)
    return {
        "exchange": max(0.0, exchange - push - pull),
        "push": push,
        "pull": pull,
        "rest": whole - exchange,
    }
