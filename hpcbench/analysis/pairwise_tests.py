"""Paired tests of every run of a class against every other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcbench.analysis.figure_registry import Figure
from hpcbench.analysis.statistical_tests import (
    CONFIDENCE,
    MIN_PAIRED_BLOCKS,
    Numbers,
    PairedDifference,
    holm_correction,
    moderate_variances,
    prior_of,
    repeats_needed,
    two_sided_p,
)

ValuesByBlock = Mapping[str, Mapping[str, float]]  # values by the names of runs, and by block


@dataclass(frozen=True, kw_only=True)
class RunPair:
    """A comparison of two runs of a class. `p_holm` is None where no test was possible."""

    first: str  # the better estimate
    second: str
    difference: PairedDifference
    p_holm: float | None
    tests: int  # how many the correction was for

    @property
    def supported(self) -> bool:
        """Whether the difference may be claimed."""
        return self.p_holm is not None and self.p_holm < 1 - CONFIDENCE

    def repeats_needed(self) -> int | None:
        """Return about how many repeats would support the difference; None where that can't be said."""
        told = self.difference
        if self.p_holm is None or told.mean is None or told.deviation is None:
            return None
        return repeats_needed(told.mean, told.deviation, self.tests, told.freedom - (told.blocks - 1))


@dataclass(frozen=True)
class PairTests:
    """All pairs of some rows, best estimate first. Arrays hold the pair (i, j), i < j, at [i, j].

    `p_holm` is NaN where no test was possible, the others where common blocks are too few.
    """

    names: tuple[str, ...]
    blocks: NDArray[np.int64]
    mean: Numbers
    deviation: Numbers
    freedom: Numbers
    p: Numbers
    p_holm: Numbers
    tests: int

    def pair(self, i: int, j: int) -> RunPair:
        """Return the comparison of the rows at two places, the better one first."""
        i, j = min(i, j), max(i, j)
        difference = PairedDifference(
            int(self.blocks[i, j]),
            _float_or_none(self.mean[i, j]),
            _float_or_none(self.deviation[i, j]),
            float(self.freedom[i, j]),
            _float_or_none(self.p[i, j]),
        )
        return RunPair(
            first=self.names[i], second=self.names[j], difference=difference,
            p_holm=_float_or_none(self.p_holm[i, j]),
            tests=self.tests,
        )  # fmt: skip

    def beaten_by(self) -> list[int]:
        """Return how many rows are supported as better than each."""
        counts: list[int] = (self.p_holm < 1 - CONFIDENCE).sum(axis=0).tolist()
        return counts

    def beats(self) -> list[int]:
        """Return how many rows are supported as worse than each."""
        counts: list[int] = (self.p_holm < 1 - CONFIDENCE).sum(axis=1).tolist()
        return counts


def compare_all_pairs(names: Sequence[str], values: ValuesByBlock, measure: Figure) -> PairTests:
    """Test every pair of rows, block by block; the correction is for the tests that could be made."""
    table = _block_table(names, values)
    count = len(names)
    blocks = np.zeros((count, count), dtype=np.int64)
    mean, variance = (np.full((count, count), np.nan) for _ in range(2))
    with np.errstate(divide="ignore", invalid="ignore"):
        positive = np.all(np.isnan(table) | (table > 0), axis=1)
        logarithms = np.log(table)
        for i in range(count - 1):
            plain = table[i] - table[i + 1 :]
            if measure.logarithmic:
                both = (positive[i] & positive[i + 1 :])[:, None]
                plain = np.where(both, logarithms[i] - logarithms[i + 1 :], plain)
            place = (i, slice(i + 1, None))
            blocks[place], mean[place], variance[place] = _differences(plain)
    deviation, freedom, p = _moderated_tests(blocks, mean, variance, _residual_freedom(table))
    p_holm = np.full((count, count), np.nan)
    tested = ~np.isnan(p)
    p_holm[tested] = holm_correction(p[tested].tolist())
    # The mean over shared blocks can contradict the estimates that gave the order: no claim then.
    contradicts = (mean < 0) if measure.higher_is_better else (mean > 0)
    p_holm[tested & contradicts] = 1.0
    return PairTests(tuple(names), blocks, mean, deviation, freedom, p, p_holm, int(tested.sum()))


def _differences(differences: Numbers) -> tuple[Any, Numbers, Numbers]:
    """Return blocks, mean and variance of each row of differences."""
    there = ~np.isnan(differences)
    n = there.sum(axis=1)
    mean = np.where(n > 0, np.where(there, differences, 0.0).sum(axis=1) / n, np.nan)
    squares = np.where(there, differences - mean[:, None], 0.0) ** 2
    return n, mean, np.where(n > 1, squares.sum(axis=1) / (n - 1), np.nan)


def _residual_freedom(table: Numbers) -> float:
    """Return the degrees of freedom that are left when rows and blocks have each taken their mean."""
    there = ~np.isnan(table)
    return float(there.sum() - there.any(axis=1).sum() - there.any(axis=0).sum() + 1)


def _moderated_tests(
    blocks: NDArray[np.int64], mean: Numbers, variance: Numbers, most_freedom: float
) -> tuple[Numbers, Numbers, Numbers]:
    """Return deviation, degrees of freedom and p of each pair: moderated paired t tests, two-sided."""
    freedom = np.maximum(blocks - 1.0, 0.0)
    tested = blocks >= MIN_PAIRED_BLOCKS
    prior = prior_of(variance[tested], freedom[tested])
    moderated = variance.copy()
    moderated[tested], freedom[tested] = moderate_variances(
        prior, variance[tested], freedom[tested], most_freedom
    )
    deviation = np.sqrt(moderated)
    with np.errstate(divide="ignore", invalid="ignore"):
        p = two_sided_p(mean / (deviation / np.sqrt(blocks)), freedom)
    p = np.where(deviation == 0, np.where(mean == 0, 1.0, 0.0), p)
    return deviation, freedom, np.where(tested, p, np.nan)


def _block_table(names: Sequence[str], values: ValuesByBlock) -> Numbers:
    """Return the values as rows of names and columns of blocks, NaN where one is missing."""
    places: dict[str, int] = {}
    for name in names:
        for block in values[name]:
            places.setdefault(block, len(places))
    table = np.full((len(names), len(places)), np.nan)
    for row, name in enumerate(names):
        for block, value in values[name].items():
            table[row, places[block]] = value
    return table


def _float_or_none(value: float) -> float | None:
    return None if np.isnan(value) else float(value)
