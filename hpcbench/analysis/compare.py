"""Two results of the same runs: what changed, by how much, and whether that is more than chance.

The repeats of two folders were not run side by side, so they form no pairs: the test is Welch's
(1947, Biometrika 34), two-sided, of logarithms where a column is compared by ratio,
corrected after Holm over all comparisons.
"""

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

from hpcbench.analysis.history import State
from hpcbench.analysis.load import load
from hpcbench.analysis.ranking import MEASURES
from hpcbench.analysis.statistics import CONFIDENCE, FEWEST_BLOCKS, holm, t_quantile, two_sided_p

COMPARED = ("throughput_samples_s", "final_acc_pct", "peak_mem_mb")
LIKE = ("cpu", "cores_usable", "devices", "packages", "python")  # of the environment (MEASURING rule 14)


class Verdict(StrEnum):
    """What may be said of a change."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    TOLERATED = "within tolerance"
    UNSUPPORTED = "not significant"
    UNTESTED = "not tested"
    LOST = "no longer finishes"


@dataclass(frozen=True, kw_only=True)
class Change:
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
    verdict: Verdict


@dataclass(frozen=True, kw_only=True)
class Compared:
    """Everything that two results have in common, and what they do not."""

    changes: list[Change]
    only_old: list[str]
    only_new: list[str]
    notes: list[str]
    tolerance_pct: float

    @property
    def regressions(self) -> list[Change]:
        """The changes for the worse that are supported, and runs that no longer finish."""
        return [each for each in self.changes if each.verdict in (Verdict.REGRESSION, Verdict.LOST)]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {**asdict(self), "regressions": len(self.regressions)}


@dataclass(frozen=True)
class _Measured:
    """A figure of the finished repeats of one run, in both results, and Welch's test of it."""

    experiment: str
    column: str
    old: list[float]
    new: list[float]
    lost: bool
    effect: float | None = None  # of logarithms or of the values
    margin: float | None = None
    p: float | None = None


def compare(old: Path, new: Path, *, tolerance_pct: float) -> Compared:
    """Compare two results folders. Raises InputError where one is none."""
    then, now = load([old]), load([new])
    names = _same_runs(then.runs, now.runs)
    measured = [
        _measure(
            name,
            column,
            then.runs[then.runs["experiment"] == first],
            now.runs[now.runs["experiment"] == second],
        )
        for name, (first, second) in names.items()
        for column in COMPARED
    ]
    known = [each for each in measured if each.old]
    corrected = iter(holm([each.p for each in known if each.p is not None]))
    first_names, second_names = ({pair[i] for pair in names.values()} for i in (0, 1))
    return Compared(
        changes=[
            _judge(each, next(corrected) if each.p is not None else None, tolerance_pct) for each in known
        ],
        only_old=sorted(set(then.runs["experiment"]) - first_names),
        only_new=sorted(set(now.runs["experiment"]) - second_names),
        notes=_unlike(then.runs, now.runs),
        tolerance_pct=tolerance_pct,
    )


def _same_runs(old: pd.DataFrame, new: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return the experiments of both that are the same run, whatever they are called, by their new names."""
    then, now = _configurations(old), _configurations(new)
    return {now[key]: (then[key], now[key]) for key in sorted(then.keys() & now.keys(), key=lambda k: now[k])}


def _configurations(runs: pd.DataFrame) -> dict[str, str]:
    """Return the name of each configuration: what all repeats have in common."""
    found = {}
    for name, text in runs.dropna(subset=["spec"])[["experiment", "spec"]].itertuples(index=False):
        spec = json.loads(text)
        for key in ("name", "repeat", "seed", "save_weights", "probe", "measure_exchange", "timeout_s"):
            spec.pop(key, None)
        spec.get("resources", {}).pop("time", None)
        spec.get("container", {}).pop("image", None)
        found[json.dumps(spec, sort_keys=True)] = str(name)
    return found


def _measure(experiment: str, column: str, old: pd.DataFrame, new: pd.DataFrame) -> _Measured:
    first, second = (_finished(frame, column) for frame in (old, new))
    lost = bool(first) and not (new["state"] == State.FINISHED.value).any()
    blank = _Measured(experiment, column, first, second, lost)
    if min(len(first), len(second)) < FEWEST_BLOCKS:
        return blank
    scale = math.log if _by_ratio(column, [*first, *second]) else float
    a, b = [scale(value) for value in first], [scale(value) for value in second]
    effect = statistics.fmean(b) - statistics.fmean(a)
    variances = [statistics.variance(each) / len(each) for each in (a, b)]
    error = math.sqrt(sum(variances))
    if error == 0:
        return _Measured(experiment, column, first, second, lost, effect, 0.0, 0.0 if effect else 1.0)
    freedom = sum(variances) ** 2 / sum(
        v**2 / (len(x) - 1) for v, x in zip(variances, (a, b), strict=True) if v
    )
    margin = t_quantile(freedom) * error
    p = float(two_sided_p(effect / error, freedom))
    return _Measured(experiment, column, first, second, lost, effect, margin, p)


def _finished(frame: pd.DataFrame, column: str) -> list[float]:
    usable = frame[frame["state"] == State.FINISHED.value][column].dropna()
    return [float(value) for value in usable]


def _by_ratio(column: str, values: Sequence[float]) -> bool:
    return MEASURES[column].logarithmic and all(value > 0 for value in values)


def _judge(each: _Measured, p: float | None, tolerance_pct: float) -> Change:
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
    return Change(
        experiment=each.experiment, column=each.column, old=old, new=new, old_n=len(each.old),
        new_n=len(each.new),
        change=change, low=low, high=high, p=p, verdict=_verdict(each, change, p, tolerance_pct),
    )  # fmt: skip


def _verdict(each: _Measured, change: float | None, p: float | None, tolerance_pct: float) -> Verdict:
    if each.lost:
        return Verdict.LOST
    if p is None or change is None:
        return Verdict.UNTESTED
    if p >= 1 - CONFIDENCE:
        return Verdict.UNSUPPORTED
    if abs(change) <= tolerance_pct:
        return Verdict.TOLERATED
    better = (change > 0) == MEASURES[each.column].higher_is_better
    return Verdict.IMPROVEMENT if better else Verdict.REGRESSION


def _unlike(old: pd.DataFrame, new: pd.DataFrame) -> list[str]:
    """Say in which facts the machines and the software of the two results differ."""
    then, now = _facts(old), _facts(new)
    return [
        f"{key}: {', '.join(sorted(then[key]))} then, {', '.join(sorted(now[key]))} now"
        for key in LIKE
        if then.get(key) and now.get(key) and then[key] != now[key]
    ]


def _facts(runs: pd.DataFrame) -> Mapping[str, set[str]]:
    found: dict[str, set[str]] = {key: set() for key in LIKE}
    for text in runs["environment"].dropna().unique():
        environment = json.loads(text)
        for key in LIKE:
            if environment.get(key) is not None:
                found[key].add(json.dumps(environment[key], sort_keys=True).strip('"'))
    return found
