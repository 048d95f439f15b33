from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from hpcbench.analysis.statistics import (
    FEWEST_BLOCKS,
    Estimate,
    estimate,
    holm,
    paired_difference,
    rank_intervals,
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
    assert estimate([5.0]) == Estimate(5.0, None, None, 1)


@given(st.lists(st.tuples(speeds, speeds), min_size=FEWEST_BLOCKS, max_size=8))
def test_paired_test_is_scipys_on_logarithms(pairs: list[tuple[float, float]]) -> None:
    """The test of a difference is the paired t test on the logarithms of both runs, block by block."""
    first, second = zip(*pairs, strict=True)
    found = paired_difference(
        {f"r{i}": v for i, v in enumerate(first)},
        {f"r{i}": v for i, v in enumerate(second)},
        logarithmic=True,
    )
    spread = np.std(np.log(first) - np.log(second), ddof=1)
    assert found.mean == pytest.approx(np.mean(np.log(first) - np.log(second)), abs=1e-9)
    if spread > 1e-6:  # below, scipy's own rounding decides
        assert found.p == pytest.approx(
            stats.ttest_rel(np.log(first), np.log(second)).pvalue, rel=1e-6, abs=1e-12
        )


def test_only_shared_blocks_are_paired() -> None:
    """Repeats that were not run side by side are no evidence, and fewer than three are no test."""
    first = {"a/r0": 10.0, "a/r1": 11.0, "a/r2": 12.0}
    assert paired_difference(first, {"b/r0": 1.0}, logarithmic=True).blocks == 0
    two = paired_difference(first, {"a/r0": 9.0, "a/r1": 9.0, "b/r2": 9.0}, logarithmic=True)
    assert (two.blocks, two.p) == (2, None)


def test_a_difference_without_spread_is_certain_and_none_is_none() -> None:
    """Equal runs never differ, and a difference that is the same in each block always does."""
    first = {"r0": 4.0, "r1": 8.0, "r2": 16.0}
    assert paired_difference(first, first, logarithmic=True).p == 1
    assert paired_difference(
        {k: 2 * v for k, v in first.items()}, first, logarithmic=True
    ).p == pytest.approx(0)


@given(p_values)
def test_holm_is_the_closed_bonferroni_procedure(values: list[float]) -> None:
    """A corrected value is the largest Bonferroni value of any set of tests that its own belongs to."""
    indices = range(len(values))
    subsets = [s for n in range(1, len(values) + 1) for s in itertools.combinations(indices, n)]
    expected = [max(min(1, len(s) * min(values[j] for j in s)) for s in subsets if i in s) for i in indices]
    assert holm(values) == pytest.approx(expected)


places = st.integers(0, 5)


@given(st.integers(1, 6), st.sets(st.tuples(places, places)))
def test_rank_intervals_hold_their_place_and_never_go_back(n: int, pairs: set[tuple[int, int]]) -> None:
    """Each row's place lies in its interval, and neither end of the intervals falls from row to row."""
    rows = [f"row{i}" for i in range(n)]
    found = rank_intervals(rows, {(rows[i], rows[j]) for i, j in pairs if i < j < n})
    assert all(low <= place <= high for place, (low, high) in enumerate((found[row] for row in rows), 1))
    for k in (0, 1):
        ends = [found[row][k] for row in rows]
        assert ends == sorted(ends)


def test_rank_intervals_of_all_and_of_no_differences() -> None:
    """Where every difference is supported there are no ties; where none is, all rows tie."""
    rows = ["a", "b", "c"]
    assert rank_intervals(rows, set(itertools.combinations(rows, 2))) == {
        "a": (1, 1),
        "b": (2, 2),
        "c": (3, 3),
    }
    assert set(rank_intervals(rows, set()).values()) == {(1, 3)}
    assert rank_intervals(rows, {("a", "c"), ("b", "c")}) == {"a": (1, 2), "b": (1, 2), "c": (3, 3)}


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
    assert repeats_needed(math.log(2), 0.0, 10) == FEWEST_BLOCKS
