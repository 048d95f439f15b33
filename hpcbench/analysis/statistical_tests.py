"""Confidence intervals, moderated variances, multiple-test correction, rank intervals, and repeats needed."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]

CONFIDENCE = 0.95
MIN_PAIRED_BLOCKS = (
    3  # below this no difference is claimed (docs/methodology.md, M11: three repeats are the default)
)
POWER = 0.8  # of the design that `repeats_needed` proposes (Cohen 1988, section 2.4)
MAX_BORROWED_FREEDOM = 2.0  # degrees of freedom out of other pairs, for each of a pair's own
MIN_VARIANCES = 3  # from fewer pairs nothing is learnt about how variances vary
MAX_REPEATS = 100  # beyond it the answer is that no number of repeats suffices


@dataclass(frozen=True)
class MeanEstimate:
    """A mean with its confidence interval; `low` and `high` are None for one value, which has no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int


def estimate(values: Sequence[float]) -> MeanEstimate:
    """Return mean -+ t(n-1) s / sqrt(n) of at least one value, in the unit of the values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return MeanEstimate(mean, None, None, n)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
    half = t_quantile(n - 1) * deviation / math.sqrt(n)
    return MeanEstimate(mean, mean - half, mean + half, n)


@functools.cache
def t_quantile(freedom: float) -> float:
    """Return how many standard errors the two-sided interval reaches, at so many degrees of freedom."""
    from scipy import special  # takes a third of a second, which printing a finished report need not

    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


def two_sided_p(t: ArrayLike, freedom: ArrayLike) -> Any:
    """Return how probable Student's t is to be as far from 0 as this, without a difference."""
    from scipy import special

    return 2 * special.stdtr(freedom, -np.abs(t))


@dataclass(frozen=True)
class PairedDifference:
    """First minus second over the `blocks` that both have; `p` is None where no test was made.

    `deviation` is that of one block's difference, as the test took it, with its degrees of `freedom`.
    """

    blocks: int
    mean: float | None
    deviation: float | None
    freedom: float
    p: float | None

    def half_interval(self) -> float | None:
        """Return how far the confidence interval of the mean reaches to each side."""
        if self.deviation is None or self.freedom <= 0:
            return None
        return t_quantile(self.freedom) * self.deviation / math.sqrt(self.blocks)


@dataclass(frozen=True)
class VariancePrior:
    """What is known of a pair's variance before it is looked at: as good as so many degrees of freedom.

    `freedom` is 0 where nothing is known, infinite where all pairs vary alike.
    """

    variance: float
    freedom: float


def prior_of(variances: Numbers, freedom: Numbers) -> VariancePrior:
    """Fit a prior to the variances of all pairs, each with its degrees of freedom, by moments of logarithms.

    Variances of zero, and fewer than FEWEST_VARIANCES, say nothing.
    """
    from scipy import optimize, special

    known = variances > 0
    if known.sum() < MIN_VARIANCES:
        return VariancePrior(0.0, 0.0)
    half = freedom[known] / 2
    logarithms = np.log(variances[known]) - special.digamma(half) + np.log(half)
    mean, excess = logarithms.mean(), logarithms.var(ddof=1) - special.polygamma(1, half).mean()
    if excess <= 0:  # they vary no more among each other than chance makes them
        return VariancePrior(math.exp(mean), math.inf)
    prior = optimize.brentq(lambda each: special.polygamma(1, each) - excess, 1e-8, 1e8)
    return VariancePrior(math.exp(mean + special.digamma(prior) - math.log(prior)), 2 * prior)


def moderate_variances(
    prior: VariancePrior, variances: Numbers, freedom: Numbers, most_freedom: float
) -> tuple[Numbers, Numbers]:
    """Return variances moved towards the prior's, and their degrees of freedom, at most `most_freedom`.

    The prior counts at most MOST_BORROWED times as much as a pair's own repeats: one noisy row among quiet
    ones would else be taken for quiet.
    """
    borrowed = np.minimum(prior.freedom, MAX_BORROWED_FREEDOM * freedom)
    total = np.maximum(freedom, np.minimum(freedom + borrowed, most_freedom))
    whole = borrowed * prior.variance + freedom * variances
    return np.where(freedom > 0, whole / np.maximum(borrowed + freedom, 1.0), variances), total


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the order given (Holm 1979)."""
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    steps = np.minimum(1.0, (len(raw) - np.arange(len(raw))) * raw[order])
    adjusted = np.empty(len(raw))
    adjusted[order] = np.maximum.accumulate(steps)
    return [float(p) for p in adjusted]


def rank_spans(beaten_by: Sequence[int], beats: Sequence[int]) -> list[tuple[int, int]]:
    """Return (rank, rank_high) of rows, best estimate first, from how many are supported better and worse.

    A noisy row can be undecided against both of two rows that are told apart; intervals are then widened
    until neither end goes down from row to row, which keeps their coverage.
    """
    rows = range(len(beats))
    low = [1 + beaten_by[row] for row in rows]
    high = [len(beats) - beats[row] for row in rows]
    for i in range(len(rows) - 2, -1, -1):
        low[i] = min(low[i], low[i + 1])
    for i in range(1, len(rows)):
        high[i] = max(high[i], high[i - 1])
    return list(zip(low, high, strict=True))


def repeats_needed(mean: float, deviation: float, tests: int, borrowed: float = 0.0) -> int | None:
    """Return how many repeats would probably support a difference of this size among `tests` tests.

    The power of the paired t test comes from the noncentral t distribution (Cohen 1988), at the level that
    Bonferroni leaves each test; `borrowed` are degrees of freedom that come from other pairs. None: more than
    MOST_REPEATS, or no difference at all.
    """
    if mean == 0:
        return None
    if deviation == 0:
        return MIN_PAIRED_BLOCKS
    from scipy import special

    level = (1 - CONFIDENCE) / tests
    for n in range(MIN_PAIRED_BLOCKS, MAX_REPEATS + 1):
        freedom = n - 1 + borrowed
        critical = -special.stdtrit(freedom, level / 2)
        # The far tail adds nothing that could be seen; the near one is the power.
        if 1 - special.nctdtr(freedom, abs(mean) / deviation * math.sqrt(n), critical) >= POWER:
            return n
    return None
