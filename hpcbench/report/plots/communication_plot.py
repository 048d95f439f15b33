"""Communication overhead: the part of a step that is exposed exchange; push and pull of a parameter server
are shown separately.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from hpcbench.analysis.result_columns import PHASES, ReportRow
from hpcbench.report.plots.plot_bars import BarPart, stacked_bars
from hpcbench.report.plots.plot_style import ORANGE, PURPLE, VERMILION
from hpcbench.report.scenes import Scene

SMALLEST_SHOWN_SHARE = (
    0.005  # of a step; a phase that only looks whether there is something to exchange takes less
)


def draw_communication(scene: Scene) -> Figure | None:
    """Draw the time of a step, mean over counted steps, ranks and repeats; None where no exchange was seen.

    Exposed is what an ablation found, else what follows the backward pass (docs/methodology.md, M7). What
    overlaps with that pass is inside the rest: no phase timer can see it.
    """
    measured = {row["experiment"]: _step_parts_ms(scene, row) for row in scene.rows}
    lengths = {name: parts for name, parts in measured.items() if parts}
    if not any(
        sum(parts.values()) - parts["rest"] > SMALLEST_SHOWN_SHARE * sum(parts.values())
        for parts in lengths.values()
    ):
        return None
    parts = {
        "exchange": BarPart(scene.language.text("exposed exchange"), VERMILION),
        "push": BarPart(scene.language.text("push"), ORANGE),
        "pull": BarPart(scene.language.text("pull"), PURPLE),
        "rest": BarPart(scene.language.text("rest of the step"), "#D0D0D0"),
    }
    overlap = scene.language.text("what overlaps with the backward pass is in the rest")
    label = f"{scene.language.text('Time per step (ms)')}\n{overlap}"
    return stacked_bars(
        list(lengths), parts, list(lengths.values()), label,
        unit=" ms",
    )  # fmt: skip


def _step_parts_ms(scene: Scene, row: ReportRow) -> dict[str, float]:
    """Return the parts of a step in ms; {} where no step counts."""
    runs = scene.of(row, scene.runs)
    steps = float(runs["counted_steps"].sum())
    if not steps:
        return {}
    columns = ["exchange_s", "push_s", "pull_s"]
    exchange, push, pull = (1000 * float(runs[name].fillna(0).sum()) / steps for name in columns)
    step_ms = sum(1000 * float(runs[f"{phase}_s"].sum()) / steps for phase in PHASES)
    exposed = runs["exposed_comm_pct"].dropna()
    if len(exposed) and not push + pull:
        exchange = step_ms * float(exposed.mean()) / 100
    return {
        "exchange": max(0.0, exchange - push - pull),
        "push": push,
        "pull": pull,
        "rest": step_ms - exchange,
    }
