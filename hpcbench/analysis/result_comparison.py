"""Comparison of two results of the same runs: what changed, by how much, and whether a test supports it."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import pandas as pd

from hpcbench.analysis.figure_registry import FIGURES
from hpcbench.analysis.results_loading import LoadedResults, load_results
from hpcbench.analysis.run_history import RecordedState
from hpcbench.analysis.statistical_tests import (
    CONFIDENCE,
    MIN_PAIRED_BLOCKS,
    holm_correction,
    t_quantile,
    two_sided_p,
)

MACHINE_FACTS = (
    "cpu",
    "cores_usable",
    "devices",
    "packages",
    "python",
)  # of the environment (docs/methodology.md, M14)


class ChangeVerdict(StrEnum):
    """What may be said of a change."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    TOLERATED = "within tolerance"
    UNSUPPORTED = "not significant"
    UNTESTED = "not tested"
    LOST = "no longer finishes"


@dataclass(frozen=True, kw_only=True)
class FigureChange:
    """One figure of one run, then and now.

    The change and its 95 % confidence interval are in per cent of the old value, for accuracies in points;
    None where there are not enough repeats. `p` is corrected for the number of tests.
    """

    experiment: str
    column: str
    old: float | None
    new: float | None
    old_n: int
    new_n: int
    change: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: ChangeVerdict


@dataclass(frozen=True, kw_only=True)
class ResultComparison:
    """Everything that two results have in common, and what they do not."""

    changes: list[FigureChange]
    only_old: list[str]
    only_new: list[str]
    notes: list[str]
    tolerance_pct: float

    @property
    def regressions(self) -> list[FigureChange]:
        """The changes for the worse that are supported, and runs that no longer finish."""
        return [
            each for each in self.changes if each.verdict in (ChangeVerdict.REGRESSION, ChangeVerdict.LOST)
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "regressions": len(self.regressions)}


@dataclass(frozen=True)
class _TwoSamples:
    """A figure of the finished repeats of one run, in both results, and Welch's test of it."""

    experiment: str
    column: str
    old: list[float]
    new: list[float]
    lost: bool
    effect: float | None = None  # of logarithms or of the values
    margin: float | None = None
    p: float | None = None


def compare_results(old: Path, new: Path, *, tolerance_pct: float) -> ResultComparison:
    """Compare two results folders. Raises InputError where one is none."""
    then, now = load_results([old]), load_results([new])
    names = _same_runs(then, now)
    measured = [
        _measure(
            name,
            column,
            then.runs[then.runs["experiment"] == first],
            now.runs[now.runs["experiment"] == second],
        )
        for name, (first, second) in names.items()
        for column in (figure.key for figure in FIGURES.values() if figure.compared)
    ]
    known = [each for each in measured if each.old]
    corrected = iter(holm_correction([each.p for each in known if each.p is not None]))
    first_names, second_names = ({pair[i] for pair in names.values()} for i in (0, 1))
    return ResultComparison(
        changes=[
            _judge_change(each, next(corrected) if each.p is not None else None, tolerance_pct)
            for each in known
        ],
        only_old=sorted(set(then.runs["experiment"]) - first_names),
        only_new=sorted(set(now.runs["experiment"]) - second_names),
        notes=_machine_differences(then.runs, now.runs),
        tolerance_pct=tolerance_pct,
    )


def _same_runs(old: LoadedResults, new: LoadedResults) -> dict[str, tuple[str, str]]:
    """Return the names of runs with one configuration in both results, by their new name."""
    before, after = _names_by_configuration(old), _names_by_configuration(new)
    same = sorted(before.keys() & after.keys(), key=lambda configuration: after[configuration])
    return {after[configuration]: (before[configuration], after[configuration]) for configuration in same}


def _names_by_configuration(loaded: LoadedResults) -> dict[str, str]:
    return {run.configuration: name for name, run in loaded.keyed if run.spec}


def _measure(experiment: str, column: str, old: pd.DataFrame, new: pd.DataFrame) -> _TwoSamples:
    first, second = (_finished(frame, column) for frame in (old, new))
    lost = bool(first) and not (new["state"] == RecordedState.FINISHED.value).any()
    blank = _TwoSamples(experiment, column, first, second, lost)
    if min(len(first), len(second)) < MIN_PAIRED_BLOCKS:
        return blank
    scale = math.log if _by_ratio(column, [*first, *second]) else float
    a, b = [scale(value) for value in first], [scale(value) for value in second]
    effect = statistics.fmean(b) - statistics.fmean(a)
    variances = [statistics.variance(each) / len(each) for each in (a, b)]
    error = math.sqrt(sum(variances))
    if error == 0:
        return _TwoSamples(experiment, column, first, second, lost, effect, 0.0, 0.0 if effect else 1.0)
    freedom = sum(variances) ** 2 / sum(
        v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True) if v
    )
    margin = t_quantile(freedom) * error
    p = float(two_sided_p(effect / error, freedom))
    return _TwoSamples(experiment, column, first, second, lost, effect, margin, p)


def _finished(frame: pd.DataFrame, column: str) -> list[float]:
    usable = frame[frame["state"] == RecordedState.FINISHED.value][column].dropna()
    return [float(value) for value in usable]


def _by_ratio(column: str, values: Sequence[float]) -> bool:
    return FIGURES[column].logarithmic and all(value > 0 for value in values)


def _judge_change(each: _TwoSamples, p: float | None, tolerance_pct: float) -> FigureChange:
    old = statistics.fmean(each.old)
    new = statistics.fmean(each.new) if each.new else None
    ratio = _by_ratio(each.column, [*each.old, *each.new])

    def shown(effect: float) -> float:
        return 100 * math.expm1(effect) if ratio else effect

    change = low = high = None
    if each.effect is not None and each.margin is not None:
        change, low, high = (shown(each.effect + sign * each.margin) for sign in (0, -1, 1))
    elif new is not None:
        change = 100 * (new / old - 1) if ratio else new - old
    return FigureChange(
        experiment=each.experiment, column=each.column, old=old, new=new, old_n=len(each.old),
        new_n=len(each.new),
        change=change, low=low, high=high, p=p, verdict=_change_verdict(each, change, p, tolerance_pct),
    )  # fmt: skip


def _change_verdict(
    each: _TwoSamples, change: float | None, p: float | None, tolerance_pct: float
) -> ChangeVerdict:
    if each.lost:
        return ChangeVerdict.LOST
    if p is None or change is None:
        return ChangeVerdict.UNTESTED
    if p >= 1 - CONFIDENCE:
        return ChangeVerdict.UNSUPPORTED
    if abs(change) <= tolerance_pct:
        return ChangeVerdict.TOLERATED
    better = (change > 0) == FIGURES[each.column].higher_is_better
    return ChangeVerdict.IMPROVEMENT if better else ChangeVerdict.REGRESSION


def _machine_differences(old: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    """Say in which facts the machines and the software of the two results differ."""
    then, now = _machine_facts(old), _machine_facts(new)
    return [
        f"{key}: {', '.join(sorted(then[key]))} then, {', '.join(sorted(now[key]))} now"
        for key in MACHINE_FACTS
        if then.get(key) and now.get(key) and then[key] != now[key]
    ]


def _machine_facts(runs: pd.DataFrame) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {key: set() for key in MACHINE_FACTS}
    for text in runs["environment"].dropna().unique():
        environment = json.loads(text)
        for key in MACHINE_FACTS:
            if environment.get(key) is not None:
                found[key].add(json.dumps(environment[key], sort_keys=True).strip('"'))
    return found
