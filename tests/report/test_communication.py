"""The picture of communication: what is known of the exchange, and nothing where nothing is."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from hpcbench.analysis.ranking import rank_runs
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import load_results
from hpcbench.report.plots.communication_plots import draw_communication
from hpcbench.report.scenes import build_scenes
from hpcbench.report.translations import ENGLISH
from hpcbench.runs.events import ExchangeAblation
from hpcbench.runs.record_writer import EventWriter
from tests.report.records import Story, Sweep, spec

ALL_INSIDE = Story(step_s=0.02, noise=0.0, shares=(0.0, 1.0, 0.0, 0.0, 0.0))


def ablate(sweep: Sweep, name: str, with_s: float, without_s: float) -> None:
    """Let each rank of a run say what its steps take with and without the exchange."""
    folder = sweep.folder.run(name, 0)
    run_id = load_results([sweep.folder.path]).runs.set_index("experiment").loc[name, "run_id"]
    event = ExchangeAblation(
        epoch=1, with_exchange_s=[with_s] * 5, without_exchange_s=[without_s] * 5, wall_s=1.0
    )
    for rank_number in range(2):
        path = folder.events(1, rank_number)
        with EventWriter(path, run_id=str(run_id), attempt=1, rank=rank_number, go_on=True) as writer:
            writer.write(event)


def drawn(sweep: Sweep) -> Figure | None:
    """Draw the only class of a sweep."""
    loaded = load_results([sweep.folder.path])
    (scene,) = build_scenes(loaded, plain_rows(rank_runs(loaded.runs).frame), [], ENGLISH)
    return draw_communication(scene)


def bars(figure: Figure) -> list[float]:
    """Return the lengths of all parts that have any, in ms."""
    patches = (patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle))
    return [round(patch.get_width(), 3) for patch in patches if patch.get_width()]


def test_no_picture_where_no_exchange_was_seen(tmp_path: Path) -> None:
    """All of DDP's exchange is inside the backward pass: a grey bar would say that there is none."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.run(spec(), ALL_INSIDE).finish()
    assert drawn(sweep) is None


def test_an_ablation_shows_what_no_phase_does(tmp_path: Path) -> None:
    """A quarter of a step was found to be exposed exchange, and that share of the counted steps is drawn."""
    sweep = Sweep(tmp_path / "sweep")
    sweep.run(spec(), ALL_INSIDE).finish()
    ablate(sweep, "ddp_gloo", 0.04, 0.03)
    figure = drawn(sweep)
    assert figure is not None
    assert bars(figure) == pytest.approx([5.0, 15.0])


def test_what_stands_after_the_backward_pass_is_exposed(tmp_path: Path) -> None:
    """The exchange of a collective run is its phase; DDP's, beside it, is not known and stays in the rest."""
    sweep = Sweep(tmp_path / "sweep")
    after = Story(step_s=0.02, noise=0.0, shares=(0.0, 0.7, 0.3, 0.0, 0.0))
    bucketed = {"strategy": "collective", "strategy_options": {"exchange": "bucketed"}}
    sweep.run(spec("collective", **bucketed), after).finish()
    sweep.run(spec(), ALL_INSIDE).finish()
    figure = drawn(sweep)
    assert figure is not None
    assert sorted(bars(figure)) == pytest.approx([6.0, 14.0, 20.0])
