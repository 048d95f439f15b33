"""What ceilings add to a report, and what `hpcbench predict` prints."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from matplotlib.figure import Figure

from hpcbench import cli
from hpcbench.analysis.limit_analysis import MeasuredVsPredicted, compare_with_predictions
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import LoadedResults, load_results
from hpcbench.ceilings.step_prediction import LimitingResource, MissingCeiling, StepPrediction
from hpcbench.report.collection import collect_results
from hpcbench.report.limit_tables import limit_sentence, limit_tables
from hpcbench.report.plots.limit_plots import draw_limits, draw_prediction
from hpcbench.report.plots.plot_style import drawing_style
from hpcbench.report.scenes import Scene, build_scenes
from hpcbench.report.translations import ENGLISH, language_of
from hpcbench.runs.events import Epoch, Event, ExchangeAblation, Steps
from tests.audit.written import alone, changing, run, write
from tests.ceilings import written as ceilings

ONE_BY_ONE = {"exchange": "per_parameter"}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return results of three strategies on a node whose ceilings are known, and of one that is not there."""
    folder = tmp_path_factory.mktemp("limits") / "r"
    write(folder, alone(), step_s=0.018)
    write(folder, run("ddp"), step_s=0.0115)
    write(folder, run("collective", strategy="collective", strategy_options=ONE_BY_ONE), step_s=0.030)
    write(folder, run("fp64", precision="fp64"))
    ceilings.write(folder / "ceilings" / "n1.jsonl", ceilings.node())
    return folder


@pytest.fixture(scope="module")
def loaded(results: Path) -> LoadedResults:
    """Return what was read of them."""
    return load_results([results])


def test_each_run_stands_somewhere(loaded: LoadedResults) -> None:
    """Prediction, share of it, limit and MFU; the formulas are those of docs/ceilings.md."""
    found = compare_with_predictions(loaded)["ddp"]
    assert isinstance(found.predicted, StepPrediction) and found.limit is LimitingResource.COMPUTE
    assert found.step_s == pytest.approx(0.0115, rel=0.02)
    assert found.of_predicted == pytest.approx(found.predicted.step_s / found.step_s)
    # 64 images of 1 MFLOP in a step, on two devices of 10 GFLOP/s.
    assert found.mfu_pct == pytest.approx(100 * 64e6 / found.step_s / 2 / 1e10)
    assert found.compute_samples_s == pytest.approx(64 / 0.010)


def test_a_run_without_a_ceiling_says_which_is_missing(loaded: LoadedResults) -> None:
    """Nothing is guessed for it."""
    found = compare_with_predictions(loaded)["fp64"]
    assert isinstance(found.predicted, MissingCeiling) and found.of_predicted is None and found.limit is None
    assert "no compute ceiling of smallconv on digits at fp64" in limit_sentence(found, "img", ENGLISH)


def test_a_sentence_says_how_far_what_binds_and_where_the_rest_goes(loaded: LoadedResults) -> None:
    """A run at its limit has nothing to explain; one that is far from it has."""
    found = compare_with_predictions(loaded)
    near, far = (limit_sentence(found[name], "img", ENGLISH) for name in ("ddp", "collective"))
    assert near.startswith(
        "96 % of the 5,799 img/s that its ceilings predict; computing takes most of a step"
    )
    assert "beyond" not in near
    assert "39 % of" in far and "ms on computing and exchanging." in far
    assert limit_sentence(found["ddp"], "img", language_of("zh")).endswith("。")


def test_evaluation_binds_where_it_takes_longer_than_training(tmp_path: Path) -> None:
    """Whatever the steps are limited by."""
    write(tmp_path, run("ddp"), changing(Epoch, evaluation_s=lambda e: 1.1 * e.train_s))
    ceilings.write(tmp_path / "ceilings" / "n1.jsonl", ceilings.node())
    assert compare_with_predictions(load_results([tmp_path]))["ddp"].limit is LimitingResource.EVALUATION


def _with_ablation(without_s: float) -> Callable[[int, Event], Event]:
    """Return a change that turns the first window into an ablation: 11 ms with, and less without."""

    def change(rank: int, event: Event) -> Event:
        if isinstance(event, Steps) and event.first_step == 0:
            return ExchangeAblation(
                epoch=1, with_exchange_s=[0.011] * 9 + [0.5], without_exchange_s=[without_s] * 10, wall_s=0.2
            )
        return event

    return change


def test_overlap_is_what_leaving_the_exchange_out_does_not_save(tmp_path: Path) -> None:
    """The all-reduce takes 0.196 ms; where leaving it out saves half of that, half is hidden.

    The two broadcasts of buffers before each forward pass, 0.1 ms each, are left out too, and never hidden.
    """
    during_s, buffers_s = 1e-4 + 4 * ceilings.PARAMETERS / 1e9, 2 * (1e-4 + 64 / 1e9)
    saved_s = during_s / 2 + buffers_s
    write(tmp_path, run("ddp"), _with_ablation(0.011 - saved_s))
    ceilings.write(tmp_path / "ceilings" / "n1.jsonl", ceilings.node())
    known = load_results([tmp_path])
    predicted = compare_with_predictions(known)["ddp"].predicted
    assert isinstance(predicted, StepPrediction) and predicted.overlap == pytest.approx(0.5)
    assert predicted.left_out == ()
    told = known.keyed[0][1].figures
    assert told is not None
    assert told.exposed_comm_pct == pytest.approx(100 * saved_s / 0.011)  # one slow step counts for one


def test_no_more_than_everything_is_hidden_and_no_less_than_nothing(tmp_path: Path) -> None:
    """A step that is faster with the exchange is noise."""
    for name, without_s, share in (("fast", 0.012, 1.0), ("slow", 0.001, 0.0)):
        write(tmp_path / name, run("ddp"), _with_ablation(without_s))
        ceilings.write(tmp_path / name / "ceilings" / "n1.jsonl", ceilings.node())
        predicted = compare_with_predictions(load_results([tmp_path / name]))["ddp"].predicted
        assert isinstance(predicted, StepPrediction) and predicted.overlap == share


def test_the_report_has_limits(results: Path) -> None:
    """A column of the ranking, a table with sentences, the links with their errors, a file, and pictures."""
    report = collect_results([results]).report
    frame = pd.read_csv(report / "ranking.csv").set_index("experiment")
    assert frame.loc["ddp", "limit"] == "compute" and pd.isna(frame.loc["fp64", "limit"])
    text = (report / "report.md").read_text()
    assert "## Limits" in text and "its ceilings predict" in text and "error at left-out sizes" in text
    assert "### How far predictions are off" in text
    page = (report / "report.html").read_text()
    assert "its ceilings predict" in page and "% of predicted" in page
    with (report / "ceilings.csv").open() as file:
        rows = {row["experiment"]: row for row in csv.DictReader(file)}
    assert float(rows["ddp"]["of_predicted_pct"]) == pytest.approx(96, abs=2)
    assert rows["fp64"]["missing"].startswith("no compute ceiling") and rows["fp64"]["predicted_step_s"] == ""
    for picture in ("ceilings", "prediction"):
        assert (report / "plots" / f"digits-smallconv-gb64.{picture}.png").stat().st_size > 10_000


def test_without_ceilings_a_report_is_as_it_was(tmp_path: Path) -> None:
    """No section, no columns, no limit."""
    write(tmp_path / "r", run("ddp"))
    collected = collect_results([tmp_path / "r"], pictures=False)
    assert collected.ranking["limit"].isna().all()
    text = (collected.report / "report.md").read_text()
    assert "## Limits" not in text and "% of predicted" not in text


def scene_of(loaded: LoadedResults) -> Scene:
    """Return the class of the three runs."""
    from hpcbench.analysis.ranking import rank_runs

    rows = plain_rows(rank_runs(loaded.runs).frame)
    return next(
        s
        for s in build_scenes(loaded, rows, (), ENGLISH, compare_with_predictions(loaded))
        if s.title.endswith("gb64")
    )


def lines(figure: Figure, panel: int) -> list[tuple[str, list[float]]]:
    """Return style and x values of the lines of a panel that are longer than a point."""
    return [
        (str(line.get_linestyle()), [float(x) for x in line.get_xdata()])  # type: ignore[union-attr]
        for line in figure.axes[panel].lines
        if len(line.get_xdata()) > 1  # type: ignore[arg-type]
    ]


def test_an_extrapolation_is_drawn_as_one(loaded: LoadedResults) -> None:
    """From two ranks, which were measured, to four, which were not: dashed."""
    with drawing_style():
        drawn = draw_prediction(scene_of(loaded))
    assert drawn is not None
    assert ("--", [2.0, 4.0]) in lines(drawn, 1) and not any(look == "-" for look, _ in lines(drawn, 1))


def test_where_everything_was_measured_the_line_is_solid(results: Path, tmp_path: Path) -> None:
    """Ceilings of four ranks as well: nothing is carried over any more."""
    more = [
        ceilings.compute(ranks=4), ceilings.loader(ranks=4), ceilings.link(ranks=4),
        ceilings.link("broadcast", ranks=4),
    ]  # fmt: skip
    ceilings.write(tmp_path / "r" / "ceilings" / "n1.jsonl", [*ceilings.node(), *more])
    write(tmp_path / "r", run("ddp"))
    with drawing_style():
        drawn = draw_prediction(scene_of(load_results([tmp_path / "r"])))
    assert drawn is not None and ("-", [2.0, 4.0]) in lines(drawn, 1)


def test_nothing_is_drawn_of_what_was_not_predicted(loaded: LoadedResults) -> None:
    """Without standings neither picture."""
    bare = replace(scene_of(loaded), standings={})
    assert draw_limits(bare) is None and draw_prediction(bare) is None


def test_bars_end_at_what_was_reached(loaded: LoadedResults) -> None:
    """In per cent of the prediction, one bar a run that was predicted."""
    scene = scene_of(loaded)
    with drawing_style():
        drawn = draw_limits(scene)
    assert drawn is not None
    ends = sorted(round(bar.get_width(), 6) for bar in drawn.axes[0].patches)  # type: ignore[attr-defined]
    reached = [s.of_predicted for s in scene.standings.values()]
    assert ends == sorted(round(100 * value, 6) for value in reached if value)


def test_tables_of_limits_mark_extrapolations(tmp_path: Path) -> None:
    """A star stands at a prediction for which something was carried over."""
    write(tmp_path, run("ddp", ranks=4, data_shards=4, batch_size=16))
    ceilings.write(tmp_path / "ceilings" / "n1.jsonl", ceilings.node())
    known = load_results([tmp_path])
    found: dict[str, MeasuredVsPredicted] = compare_with_predictions(known)
    table = limit_tables(
        found, known.ceilings, [{"experiment": "ddp", "class": "c", "dataset": "digits"}], ENGLISH
    )
    assert table[0].rows[0][2].endswith("*")


SWEEP = """
version: 1
name: r
defaults: {dataset: digits, model: smallconv, global_batch: 64, epochs: 4, repeats: 3, ranks: 2}
resources: {nodes: 1, gpus_per_node: 0}
runs:
  - {strategy: single_gpu}
  - {strategy: ddp}
  - {strategy: ps, precision: fp64}
"""


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Return a sweep file, and beside it the ceilings of a node and one measured run."""
    file = tmp_path / "r.yaml"
    file.write_text(SWEEP)
    ceilings.write(tmp_path / "results" / "r" / "ceilings" / "n1.jsonl", ceilings.node())
    return file


def predicted(sweep: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, dict[str, Any]]:
    """Return what the verb prints as JSON, by run."""
    arguments = ["predict", str(sweep), "--results", str(sweep.parent / "results"), "--json", *options]
    assert cli.main(arguments) == 0
    return {each["name"]: each for each in json.loads(capsys.readouterr().out)["runs"]}


def test_the_verb_predicts_each_run_up_to_twice_its_ranks(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With the parts of the step, what was assumed, and what is missing where a ceiling is."""
    found = predicted(sweep, capsys)
    assert found["ddp"]["predicted"]["step_s"] == pytest.approx(0.0110361, rel=1e-3)
    assert [(each["ranks"], each["extrapolated"]) for each in found["ddp"]["projected"]] == [
        (2, False), (4, True)
    ]  # fmt: skip
    assert found["single_gpu"]["projected"] == [] and found["single_gpu"]["error_pct"] is None
    assert found["ps"]["predicted"] is None and "fp64" in found["ps"]["missing"]


def test_the_verb_states_the_error_where_it_was_measured(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run of the sweep that has records stands beside its prediction."""
    from hpcbench.catalog import CATALOG
    from hpcbench.sweep.sweep_loading import load_sweep

    spec = next(run for run in load_sweep([sweep], CATALOG).runs if run.strategy == "ddp")
    write(sweep.parent / "results" / "r", replace(spec, batch_size=32), step_s=0.010)
    found = predicted(sweep, capsys)["ddp"]
    assert found["measured_step_s"] == pytest.approx(0.010, rel=0.02)
    assert found["error_pct"] == pytest.approx(10, abs=3)
    assert cli.main(["predict", str(sweep), "--results", str(sweep.parent / "results")]) == 0
    assert "ddp: step time off by 1" in capsys.readouterr().out


def test_ceilings_of_another_node_may_be_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--ceilings FILE` counts instead of what the results hold."""
    other = ceilings.write(sweep.parent / "n2.jsonl", [ceilings.compute(ranks=1, batch=64, seconds=0.1)])
    found = predicted(sweep, capsys, "--ceilings", str(other))["single_gpu"]
    assert found["predicted"]["step_s"] == pytest.approx(0.1)
    assert found["predicted"]["left_out"] == ["the loader, which was not measured"]


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "no such file of ceilings"),
        ("", "no ceilings to predict from"),
        ("{}\n", "a ceiling without ceiling, schema, host, time_ns"),
        ("text\n", "n.jsonl:1: this line is no record"),
    ],
)
def test_ceilings_that_are_none_are_one_message(
    sweep: Path, capsys: pytest.CaptureFixture[str], content: str | None, why: str
) -> None:
    """Exit status 2, and how to get some."""
    file = sweep.parent / "n.jsonl"
    if content is not None:
        file.write_text(content)
    assert cli.main(["predict", str(sweep), "--ceilings", str(file)]) == 2
    assert why in capsys.readouterr().err


def test_without_results_the_verb_says_how_to_get_ceilings(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It names the probe."""
    assert cli.main(["predict", str(sweep), "--results", str(sweep.parent / "none")]) == 2
    assert "hpcbench probe" in capsys.readouterr().err


def test_an_unreadable_file_in_the_results_is_named(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The message names the file, also where no file was given on the command line."""
    results = sweep.parent / "results"
    (results / "r" / "ceilings").mkdir(parents=True, exist_ok=True)
    broken = results / "r" / "ceilings" / "broken.jsonl"
    broken.write_bytes(b"\xff\xfe\n")
    assert cli.main(["predict", str(sweep), "--results", str(results)]) == 2
    assert str(broken) in capsys.readouterr().err
    broken.unlink()
    broken.mkdir()
    assert cli.main(["predict", str(sweep), "--results", str(results)]) == 2
    assert str(broken) in capsys.readouterr().err
