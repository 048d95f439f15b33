"""Fit of t = alpha + bytes / bandwidth to a measured sweep of message sizes, in up to three ranges."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from hpcbench.ceilings.ceiling_records import LinkCeiling, TransferCeiling

MAX_RANGES = 3
FIT_QUANTILE = 0.25  # quantile over repeats
MIN_SIZES_PER_RANGE = 3  # in a range: two would be met exactly, whatever they are
REQUIRED_IMPROVEMENT = 0.9  # more ranges have to leave at most this share of the error that fewer have
NEGLIGIBLE_ERROR = 1e-3  # an error that no clock would show again


@dataclass(frozen=True)
class AlphaBetaLine:
    """t = alpha_s + size / bandwidth up to `until_bytes`; a bandwidth may be infinite."""

    until_bytes: float
    alpha_s: float
    bandwidth_bytes_s: float


@dataclass(frozen=True)
class LinkFit:
    """The lines of a link, smallest sizes first, and how far they can be trusted.

    `tail` is the mean time over the lower quartile: the lines are of the latter, and a run pays the mean. It
    is the median over sizes, so that an outlier at one size does not affect the others.
    `left_out_error` is the median relative error at sizes that were left out of the fit (all but the two
    ends, which would be extrapolated), `repeatability` that of one repeat against the median of the others:
    no fit can be expected to be better. None where there are too few sizes or repeats to tell.
    """

    lines: tuple[AlphaBetaLine, ...]
    left_out_error: float | None
    repeatability: float | None
    tail: float = 1.0

    def seconds(self, size_bytes: float) -> float:
        """Return the typical time of a message; nothing takes no time. Beyond the ends lines go on."""
        if size_bytes <= 0:
            return 0.0
        line = self.line(size_bytes)
        return line.alpha_s + size_bytes / line.bandwidth_bytes_s

    def line(self, size_bytes: float) -> AlphaBetaLine:
        """Return the line that a size lies on."""
        return next((each for each in self.lines if size_bytes <= each.until_bytes), self.lines[-1])

    @property
    def latency_s(self) -> float:
        """The time of the smallest message."""
        return self.lines[0].alpha_s


@dataclass(frozen=True)
class MeasuredBandwidth:
    """A size of a sweep, as nccl-tests tells it."""

    size_bytes: int
    seconds: float  # median over repeats
    algbw_bytes_s: float
    busbw_bytes_s: float


def bus_factor(operation: str, ranks: int) -> float:
    """Return busbw / algbw: 2(n-1)/n for an all-reduce, 1 where every byte crosses the link once."""
    return 2 * (ranks - 1) / ranks if operation == "all_reduce" else 1.0


def bandwidths(link: LinkCeiling) -> list[MeasuredBandwidth]:
    """Return algbw = S / t and busbw of each size."""
    factor = bus_factor(link.operation, link.ranks)
    medians = [statistics.median(each) for each in link.seconds]
    return [
        MeasuredBandwidth(size, seconds, size / seconds, factor * size / seconds)
        for size, seconds in zip(link.size_bytes, medians, strict=True)
    ]


def fit_link(sweep: LinkCeiling | TransferCeiling) -> LinkFit:
    """Fit the lines of a sweep over at least one size."""
    sizes = [float(size) for size in sweep.size_bytes]
    seconds = [float(np.quantile(each, FIT_QUANTILE)) for each in sweep.seconds]
    best, error = _fit_ranges(sizes, seconds, 1), _left_out_error(sizes, seconds, 1)
    for ranges in range(2, MAX_RANGES + 1):
        if error is None or error < NEGLIGIBLE_ERROR:
            break
        other = _left_out_error(sizes, seconds, ranges)
        if other is not None and other < REQUIRED_IMPROVEMENT * error:
            best, error = _fit_ranges(sizes, seconds, ranges), other
    tail = statistics.median(
        statistics.fmean(each) / typical for each, typical in zip(sweep.seconds, seconds, strict=True)
    )
    return LinkFit(best, error, _repeatability(sweep.seconds), max(1.0, tail))


def _fit_ranges(sizes: Sequence[float], seconds: Sequence[float], ranges: int) -> tuple[AlphaBetaLine, ...]:
    """Return the cut into so many ranges whose lines have the least squared relative error."""
    n = len(sizes)
    best: tuple[float, tuple[AlphaBetaLine, ...]] | None = None
    for cuts in combinations(range(MIN_SIZES_PER_RANGE, n - MIN_SIZES_PER_RANGE + 1), ranges - 1):
        edges = [0, *cuts, n]
        spans = list(pairwise(edges))
        if ranges > 1 and any(end - begin < MIN_SIZES_PER_RANGE for begin, end in spans):
            continue
        fitted = [_fit_line(sizes[begin:end], seconds[begin:end]) for begin, end in spans]
        # Where between two sizes one range ends and the next begins is not known: taken in the middle.
        borders = [math.sqrt(sizes[cut - 1] * sizes[cut]) for cut in cuts] + [math.inf]
        error = sum(each for each, _, _ in fitted)
        if best is None or error < best[0]:
            lines = zip(borders, fitted, strict=True)
            best = (error, tuple(AlphaBetaLine(border, alpha, speed) for border, (_, alpha, speed) in lines))
    assert best is not None
    return best[1]


def _fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> tuple[float, float, float]:
    """Return (squared relative error, alpha in s, bandwidth in bytes/s)."""
    from scipy.optimize import nnls  # more than half a second, which the rules' names need not

    size, time = np.asarray(sizes), np.asarray(seconds)
    scale = size.max()  # so that both unknowns are seconds
    (alpha, slope), residual = nnls(np.column_stack([1 / time, size / scale / time]), np.ones(len(time)))
    return residual**2, float(alpha), math.inf if slope == 0 else float(scale / slope)


def _left_out_error(sizes: Sequence[float], seconds: Sequence[float], ranges: int) -> float | None:
    """Return the median relative error at each size but the ends, when it is left out of the fit."""
    errors = []
    if len(sizes) - 1 < ranges * MIN_SIZES_PER_RANGE:
        return None
    for at in range(1, len(sizes) - 1):
        lines = _fit_ranges([*sizes[:at], *sizes[at + 1 :]], [*seconds[:at], *seconds[at + 1 :]], ranges)
        errors.append(abs(LinkFit(lines, None, None).seconds(sizes[at]) / seconds[at] - 1))
    return statistics.median(errors) if errors else None


def _repeatability(seconds: Sequence[Sequence[float]]) -> float | None:
    """Return the median, over sizes and repeats, of how far a repeat is from the median of the others."""
    apart = [
        abs(value / statistics.median([*each[:at], *each[at + 1 :]]) - 1)
        for each in seconds
        if len(each) > 1
        for at, value in enumerate(each)
    ]
    return statistics.median(apart) if apart else None
