"""The statistics behind a ranking: an interval for each row, and which differences are supported.

What is computed, and why so, stands in docs/report.md. Sources:

- interval: Student (1908), "The probable error of a mean", Biometrika 6(1).
- paired test: a repeat of every run stands close in time to the same repeat of the others (a block), so the
  machine's slow changes cancel in the difference. Of logarithms, since strategies differ by factors.
- Holm (1979), "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 6(2).
- ranks as intervals: Al Mohamad, Goeman, van Zwet (2022), "Simultaneous confidence intervals for ranks with
  application to ranking institutions", Biometrics 78(1): with pairwise tests of a controlled family-wise
  error, 1 + (those supported as better) to n - (those supported as worse) holds every true rank at once.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

CONFIDENCE = 0.95
FEWEST_BLOCKS = 3  # below this no difference is claimed (MEASURING rule 11: three repeats are the default)
POWER = 0.8  # of the design that `repeats_needed` proposes (Cohen 1988, section 2.4)
MOST_REPEATS = 100  # nobody runs more: beyond it the answer is "not to be told apart"


@dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval; `low` and `high` are None for one value, which has no spread."""

    mean: float
    low: float | None
    high: float | None
    n: int


def estimate(values: Sequence[float]) -> Estimate:
    """Return mean -+ t(n-1) s / sqrt(n) of at least one value, in the unit of the values."""
    n = len(values)
    mean = math.fsum(values) / n
    if n < 2:
        return Estimate(mean, None, None, n)
    half = t_quantile(n - 1) * statistics.stdev(values) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


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
class Difference:
    """First minus second over the `blocks` that both have; `p` is None where no test was made."""

    blocks: int
    mean: float | None
    deviation: float | None
    p: float | None


def paired_difference(
    first: Mapping[str, float], second: Mapping[str, float], *, logarithmic: bool
) -> Difference:
    """Test whether two runs differ, block by block (two-sided paired t test).

    Blocks are keys. With `logarithmic` the values must be positive and the mean is the logarithm of a ratio.
    """
    shared = sorted(first.keys() & second.keys())
    scale = math.log if logarithmic else float
    differences = [scale(first[block]) - scale(second[block]) for block in shared]
    n = len(differences)
    if n == 0:
        return Difference(0, None, None, None)
    mean = math.fsum(differences) / n
    deviation = statistics.stdev(differences) if n > 1 else None
    if n < FEWEST_BLOCKS or deviation is None:
        return Difference(n, mean, deviation, None)
    if deviation == 0:
        return Difference(n, mean, deviation, 1.0 if mean == 0 else 0.0)
    t = mean / (deviation / math.sqrt(n))
    return Difference(n, mean, deviation, float(two_sided_p(t, n - 1)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values corrected for their number, in the order given (Holm 1979)."""
    raw = np.asarray(p_values, dtype=float)
    order = np.argsort(raw, kind="stable")
    steps = np.minimum(1.0, (len(raw) - np.arange(len(raw))) * raw[order])
    adjusted = np.empty(len(raw))
    adjusted[order] = np.maximum.accumulate(steps)
    return [float(p) for p in adjusted]


def rank_intervals(rows: Sequence[str], better: Collection[tuple[str, str]]) -> dict[str, tuple[int, int]]:
    """Return (rank, rank_high) of each row, from the supported differences `(better row, worse row)`.

    `rows` stand best estimate first. A noisy row can be undecided against both of two rows that are told
    apart; intervals are then widened until neither end goes down from row to row, which keeps their coverage.
    """
    spans = rank_spans(
        [sum((other, row) in better for other in rows) for row in rows],
        [sum((row, other) in better for other in rows) for row in rows],
    )
    return dict(zip(rows, spans, strict=True))


def rank_spans(beaten_by: Sequence[int], beats: Sequence[int]) -> list[tuple[int, int]]:
    """Return (rank, rank_high) of rows, best estimate first, from how many are supported better and worse."""
    rows = range(len(beats))
    low = [1 + beaten_by[row] for row in rows]
    high = [len(beats) - beats[row] for row in rows]
    for i in range(len(rows) - 2, -1, -1):
        low[i] = min(low[i], low[i + 1])
    for i in range(1, len(rows)):
        high[i] = max(high[i], high[i - 1])
    return list(zip(low, high, strict=True))


def repeats_needed(mean: float, deviation: float, tests: int) -> int | None:
    """Return how many repeats would probably support a difference of this size among `tests` tests.

    The power of the paired t test comes from the noncentral t distribution (Cohen 1988), at the level that
    Bonferroni leaves each test. None: more than MOST_REPEATS, or no difference at all.
    """
    if mean == 0:
        return None
    if deviation == 0:
        return FEWEST_BLOCKS
    from scipy import special

    level = (1 - CONFIDENCE) / tests
    for n in range(FEWEST_BLOCKS, MOST_REPEATS + 1):
        critical = -special.stdtrit(n - 1, level / 2)
        # The far tail adds nothing that could be seen; the near one is the power.
        if 1 - special.nctdtr(n - 1, abs(mean) / deviation * math.sqrt(n), critical) >= POWER:
            return n
    return None
