from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from hpcbench.analysis.result_comparison import ChangeVerdict, FigureChange, compare_results
from hpcbench.cli import main
from hpcbench.errors import InputError
from hpcbench.sweep.run_spec import Container
from tests.report.records import Story, Sweep, single, spec


def results(path: Path, *, step_s: float = 0.02, noise: float = 0.001, count: int = 4, seed: int = 1) -> Path:
    """Return results of two runs; the second has a step time of its own."""
    sweep = Sweep(path)
    sweep.repeats(single(), Story(step_s=0.01, noise=noise, rng=random.Random(seed)), count=count)
    sweep.repeats(spec(), Story(step_s=step_s, noise=noise, rng=random.Random(seed + 1)), count=count)
    return path


def of(changes: list[FigureChange], experiment: str, column: str = "throughput_samples_s") -> FigureChange:
    """Return the change of a figure."""
    (found,) = [each for each in changes if (each.experiment, each.column) == (experiment, column)]
    return found


def test_a_slower_run_is_a_regression_with_its_interval(tmp_path: Path) -> None:
    """A run that takes half as long again is worse, by Welch's test; the other is not; the status is 1."""
    old, new = results(tmp_path / "old"), results(tmp_path / "new", step_s=0.03, seed=7)
    compared = compare_results(old, new, tolerance_pct=2)
    slow = of(compared.changes, "ddp_gloo")
    assert slow.verdict is ChangeVerdict.REGRESSION
    assert slow.change == pytest.approx(-33.3, abs=1) and slow.low is not None and slow.high is not None
    assert slow.low < slow.change < slow.high < -25
    assert of(compared.changes, "single_gpu").verdict is ChangeVerdict.UNSUPPORTED
    assert [each.experiment for each in compared.regressions] == ["ddp_gloo"]
    assert main(["compare", str(old), str(new)]) == 1
    assert main(["compare", str(new), str(old)]) == 0
    assert (
        of(compare_results(new, old, tolerance_pct=2).changes, "ddp_gloo").verdict
        is ChangeVerdict.IMPROVEMENT
    )


def test_the_test_is_welchs_of_logarithms(tmp_path: Path) -> None:
    """Change, interval and uncorrected p are those of scipy's test of unequal variances."""
    old, new = results(tmp_path / "old", count=5), results(tmp_path / "new", step_s=0.021, noise=0.05, seed=5)
    from hpcbench.analysis.results_loading import load_results

    logs = [
        np.log(frame[frame["experiment"] == "ddp_gloo"]["throughput_samples_s"].astype(float))
        for frame in (load_results([old]).runs, load_results([new]).runs)
    ]
    expected = stats.ttest_ind(logs[1], logs[0], equal_var=False)
    interval = expected.confidence_interval(0.95)
    found = of(compare_results(old, new, tolerance_pct=0).changes, "ddp_gloo")
    assert (found.low, found.high) == pytest.approx(100 * np.expm1([interval.low, interval.high]))
    tested = [c.p for c in compare_results(old, new, tolerance_pct=0).changes if c.p is not None]
    assert found.p is not None and expected.pvalue <= found.p <= min(1, expected.pvalue * len(tested)) + 1e-12


def test_a_change_within_the_tolerance_is_none(tmp_path: Path) -> None:
    """What is real and small is told as such, and does not fail."""
    old = results(tmp_path / "old", noise=0)
    new = results(tmp_path / "new", step_s=0.0225, noise=0)
    assert (
        of(compare_results(old, new, tolerance_pct=15).changes, "ddp_gloo").verdict
        is not ChangeVerdict.REGRESSION
    )
    assert main(["compare", str(old), str(new), "--tolerance", "15"]) == 0


def test_too_few_repeats_claim_nothing(tmp_path: Path) -> None:
    """Two repeats show a change and no verdict; the summary says so."""
    old, new = results(tmp_path / "old", count=2), results(tmp_path / "new", count=2, step_s=0.04)
    compared = compare_results(old, new, tolerance_pct=2)
    slow = of(compared.changes, "ddp_gloo")
    assert (slow.verdict, slow.p, slow.low) == (ChangeVerdict.UNTESTED, None, None)
    assert slow.change == pytest.approx(-50, abs=2)
    assert not compared.regressions


def test_a_run_that_no_longer_finishes_is_a_regression(tmp_path: Path) -> None:
    """A run that failed in all repeats is worse, whatever it was before."""
    old = results(tmp_path / "old")
    sweep = Sweep(tmp_path / "new")
    sweep.repeats(single(), Story(step_s=0.01), count=4)
    sweep.run(spec()).fail()
    compared = compare_results(old, tmp_path / "new", tolerance_pct=2)
    assert of(compared.changes, "ddp_gloo").verdict is ChangeVerdict.LOST
    assert {each.experiment for each in compared.regressions} == {"ddp_gloo"}


def test_runs_are_matched_by_what_they_are(tmp_path: Path) -> None:
    """A new name is the same run, another setting is another run, and what has no counterpart is named."""
    old = results(tmp_path / "old")
    sweep = Sweep(tmp_path / "new")
    sweep.repeats(replace(single(), name="renamed"), Story(step_s=0.01), count=4)
    sweep.repeats(spec(cache="memory"), Story(step_s=0.02), count=4)
    compared = compare_results(old, tmp_path / "new", tolerance_pct=2)
    assert {each.experiment for each in compared.changes} == {"renamed"}
    assert (compared.only_old, compared.only_new) == (["ddp_gloo"], ["ddp_gloo"])


@pytest.mark.parametrize(
    "changed",
    [
        {"checkpoint": "epoch"},
        {"container": Container(runtime="apptainer", image="a.sif", binds=["/data"])},
        {"seed": 100},
        {"timeout_s": 99.0},
    ],
)
def test_what_is_not_identity_separates_no_runs(tmp_path: Path, changed: dict[str, Any]) -> None:
    """Runs match by the one definition of identity, which the ranking uses as well."""
    old, new = Sweep(tmp_path / "old"), Sweep(tmp_path / "new")
    kept = {"container": Container(runtime="apptainer", image="b.sif")} if "container" in changed else {}
    old.repeats(single(**kept))
    new.repeats(single(**changed))
    compared = compare_results(old.folder.path, new.folder.path, tolerance_pct=2)
    assert {each.experiment for each in compared.changes} == {"single_gpu"}
    assert (compared.only_old, compared.only_new) == ([], [])


def test_json_and_markdown_say_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms have every comparison; Markdown escapes names."""
    old, new = results(tmp_path / "old"), results(tmp_path / "new", step_s=0.03)
    assert main(["compare", str(old), str(new), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["regressions"] == 1 and len(told["changes"]) == 6
    assert main(["compare", str(old), str(new), "--markdown"]) == 1
    text = capsys.readouterr().out
    assert text.count("\n| ") == 7 and "**Worse than before, beyond 2 %: ddp_gloo.**" in text


def test_results_that_are_none_are_refused(tmp_path: Path) -> None:
    """A folder that holds no results is named, with status 2; nothing in common is said, not judged."""
    old = results(tmp_path / "old")
    with pytest.raises(InputError, match="no such results folder"):
        compare_results(old, tmp_path / "absent", tolerance_pct=2)
    assert main(["compare", str(old), str(tmp_path / "absent")]) == 2
    Sweep(tmp_path / "empty")
    assert compare_results(old, tmp_path / "empty", tolerance_pct=2).changes == []
