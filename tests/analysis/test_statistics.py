from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from hpcbench.analysis.figure_registry import FIGURES
from hpcbench.analysis.pairwise_tests import compare_all_pairs
from hpcbench.analysis.statistical_tests import (
    MIN_PAIRED_BLOCKS,
    MeanEstimate,
    VariancePrior,
    estimate,
    holm_correction,
    prior_of,
    rank_spans,
    repeats_needed,
)

speeds = st.floats(1, 1e6)
p_values = st.lists(st.floats(0, 1), min_size=1, max_size=5)


@given(st.lists(speeds, min_size=2, max_size=8))
def test_interval_is_students(values: list[float]) -> None:
    """Mean and interval are what scipy's t distribution gives, in the unit of the values."""
    found = estimate(values)
    low = high = np.mean(values)
    if stats.sem(values) > 0:
        low, high = stats.t.interval(0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values))
    assert found.low is not None and found.high is not None
    assert (found.mean, found.low, found.high) == pytest.approx(
        (np.mean(values), low, high), rel=1e-9, abs=1e-6
    )
    assert found.n == len(values)


def test_one_value_has_no_interval() -> None:
    """A single repeat says nothing of its spread."""
    assert estimate([5.0]) == MeanEstimate(5.0, None, None, 1)


Values = dict[str, dict[str, float]]
THROUGHPUT = FIGURES["throughput_samples_s"]


def by_row(table: NDArray[np.float64]) -> Values:
    """Return rows of repeats as runs by name and block."""
    return {f"row{i}": {f"r{k}": float(v) for k, v in enumerate(row)} for i, row in enumerate(table)}


@given(st.lists(st.tuples(speeds, speeds), min_size=MIN_PAIRED_BLOCKS, max_size=8))
def test_two_runs_are_tested_as_scipy_does_on_logarithms(pairs: list[tuple[float, float]]) -> None:
    """One pair has nobody to learn from: the test is the paired t test on the logarithms, block by block."""
    table = np.array(sorted(np.array(pairs).T.tolist(), key=np.mean, reverse=True))
    logarithms = np.log(table)
    difference = logarithms[0] - logarithms[1]
    found = compare_all_pairs(["row0", "row1"], by_row(table), THROUGHPUT).pair(0, 1).difference
    assert found.mean == pytest.approx(difference.mean(), abs=1e-9)
    if difference.std() > 1e-6:  # below, scipy's own rounding decides
        expected = stats.ttest_rel(*logarithms)
        low, high = expected.confidence_interval()
        assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12)
        assert found.half_interval() == pytest.approx((high - low) / 2, rel=1e-6)


def test_only_shared_blocks_are_paired() -> None:
    """Repeats that were not run side by side are no evidence, and fewer than three are no test."""
    values = {
        "first": {"a/r0": 10.0, "a/r1": 11.0, "a/r2": 12.0},
        "second": {"a/r0": 9.0, "a/r1": 9.0, "b/r2": 9.0},
        "third": {"b/r0": 1.0},
    }
    pairs = compare_all_pairs(list(values), values, THROUGHPUT)
    assert [pairs.pair(0, other).difference.blocks for other in (1, 2)] == [2, 0]
    assert [pairs.pair(0, other).difference.p for other in (1, 2)] == [None, None]


def test_a_difference_without_spread_is_certain_and_none_is_none() -> None:
    """Equal runs never differ, and a difference that is the same in each block always does."""
    row = np.array([4.0, 8.0, 16.0])
    pairs = compare_all_pairs(["row0", "row1", "row2"], by_row(np.array([2 * row, row, row])), THROUGHPUT)
    assert pairs.pair(0, 1).difference.p == pytest.approx(0)
    assert pairs.pair(1, 2).difference.p == 1


def test_a_prior_is_found_again() -> None:
    """Variances drawn from a prior tell it: its variance, and how much they vary around it."""
    rng = np.random.default_rng(0)
    freedom = np.full(20_000, 2.0)
    for prior in (VariancePrior(0.04, 6.0), VariancePrior(0.04, math.inf)):
        spread = 1.0 if math.isinf(prior.freedom) else rng.chisquare(prior.freedom, 20_000) / prior.freedom
        found = prior_of(prior.variance / spread * rng.chisquare(2, 20_000) / 2, freedom)
        assert found.variance == pytest.approx(prior.variance, rel=0.1)
        assert found.freedom == pytest.approx(prior.freedom, rel=0.3) or found.freedom > 100 < prior.freedom


ROWS = 15
SPREADS: dict[str, Callable[[np.random.Generator], Any]] = {
    "equal": lambda rng: np.ones(ROWS),
    "unequal by a factor of e": lambda rng: np.exp(rng.normal(0, 1, ROWS)),
    "one row is noisy": lambda rng: np.array([6.0] + [1.0] * (ROWS - 1)),
    "two rows are noisy": lambda rng: np.array([4.0, 4.0] + [1.0] * (ROWS - 2)),
}


@pytest.mark.parametrize("kind", SPREADS)
def test_what_is_claimed_is_true(kind: str) -> None:
    """Of sweeps without any difference few claim one; with 3 repeats, factors are told apart among 15 rows.

    The machine's slow changes are larger than the spread of most rows.
    """
    rng = np.random.default_rng(3)
    rows, repeats, sweeps = ROWS, 3, 200
    names = [f"row{i}" for i in range(rows)]
    wrong, found = 0, 0.0
    for _ in range(sweeps):
        spread = 0.03 * SPREADS[kind](rng)[:, None]
        noise = rng.normal(size=(rows, repeats)) * spread + rng.normal(0, 0.2, (1, repeats))
        order = np.argsort(-noise.mean(axis=1))
        alike = compare_all_pairs(names, by_row(np.exp(noise[order])), THROUGHPUT)
        wrong += bool(sum(alike.beats()))
        factors = np.log(1.5) * -np.arange(rows)[:, None]
        found += sum(compare_all_pairs(names, by_row(np.exp(noise + factors)), THROUGHPUT).beats())
    assert wrong / sweeps <= 0.09  # 0.05, and what 200 sweeps scatter
    assert found / sweeps >= 0.75 * rows * (rows - 1) / 2


@given(p_values)
def test_holm_is_the_closed_bonferroni_procedure(values: list[float]) -> None:
    """A corrected value is the largest Bonferroni value of any set of tests that its own belongs to."""
    indices = range(len(values))
    subsets = [s for n in range(1, len(values) + 1) for s in itertools.combinations(indices, n)]
    expected = [max(min(1, len(s) * min(values[j] for j in s)) for s in subsets if i in s) for i in indices]
    assert holm_correction(values) == pytest.approx(expected)


places = st.integers(0, 5)


def spans(n: int, better: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the intervals of ranks of n rows, from (better, worse) pairs of places."""
    return rank_spans(
        [sum(worse == row for _, worse in better) for row in range(n)],
        [sum(first == row for first, _ in better) for row in range(n)],
    )


@given(st.integers(1, 6), st.sets(st.tuples(places, places)))
def test_rank_intervals_hold_their_place_and_never_go_back(n: int, pairs: set[tuple[int, int]]) -> None:
    """Each row's place lies in its interval, and neither end of the intervals falls from row to row."""
    found = spans(n, {(i, j) for i, j in pairs if i < j < n})
    assert all(low <= place <= high for place, (low, high) in enumerate(found, 1))
    for ends in zip(*found, strict=True):
        assert list(ends) == sorted(ends)


def test_rank_intervals_of_all_and_of_no_differences() -> None:
    """Where every difference is supported there are no ties; where none is, all rows tie."""
    assert spans(3, set(itertools.combinations(range(3), 2))) == [(1, 1), (2, 2), (3, 3)]
    assert spans(3, set()) == [(1, 3)] * 3
    assert spans(3, {(0, 2), (1, 2)}) == [(1, 2), (1, 2), (3, 3)]


def test_repeats_needed_reaches_its_power() -> None:
    """With as many repeats as proposed about four of five experiments support the difference."""
    mean, deviation, tests = 0.03, 0.02, 3
    n = repeats_needed(mean, deviation, tests)
    assert n is not None
    rng = np.random.default_rng(0)

    def power(repeats: int) -> float:
        p = stats.ttest_1samp(rng.normal(mean, deviation, (4000, repeats)), 0, axis=1).pvalue
        return float(np.mean(p < 0.05 / tests))

    assert power(n) >= 0.78
    assert power(n - 1) < 0.82
    assert repeats_needed(0.0, 0.1, 1) is None
    assert repeats_needed(1e-6, 1.0, 1) is None
    assert repeats_needed(math.log(2), 0.0, 10) == MIN_PAIRED_BLOCKS
