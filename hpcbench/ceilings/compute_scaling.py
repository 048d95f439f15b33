"""The compute time of a step, carried over from the batches and numbers of ranks that were measured."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from hpcbench.ceilings.ceiling_records import ComputeCeiling
from hpcbench.sweep.catalog_entries import ModelSize


@dataclass(frozen=True, kw_only=True)
class ComputeTime:
    """What a step costs a device that trains alone, in seconds.

    `fixed_s` is the part of `forward_backward_s` that does not depend on the batch (launching operations),
    where several batches were measured. `steps_s` are the whole steps that were seen, one by one.
    """

    forward_backward_s: float
    fixed_s: float
    update_s: float
    steps_s: tuple[float, ...]
    flop: float
    model: ModelSize
    assumed: tuple[str, ...] = ()

    @property
    def fastest_s(self) -> float:
        """The shortest step that was seen."""
        return min(self.steps_s)

    def skew_s(self, ranks: int) -> float:
        """Return how much longer than the mean the slowest of so many ranks takes, on average.

        The expected maximum of as many draws from the steps that were seen (David and Nagaraja 2003, "Order
        statistics", section 2.1), as if ranks were slow independently of each other.
        """
        ordered, n = sorted(self.steps_s), len(self.steps_s)
        shares = [(place / n) ** ranks for place in range(n + 1)]
        slowest_s = sum(step * (b - a) for step, (a, b) in zip(ordered, pairwise(shares), strict=True))
        return slowest_s - statistics.fmean(ordered)

    def repeated(self, times: int) -> ComputeTime:
        """Return a step of so many of these before one update."""
        more = (times - 1) * self.forward_backward_s
        return replace(
            self,
            forward_backward_s=self.forward_backward_s + more,
            fixed_s=times * self.fixed_s,
            steps_s=tuple(step + more for step in self.steps_s),
            flop=times * self.flop,
            assumed=(*self.assumed, "compute as of single micro-batches"),
        )


def compute_time(
    alike: Sequence[ComputeCeiling], batch: int, ranks: int, *, cpu: bool, blocks: int
) -> ComputeTime:
    """Return a step of `batch` samples with so many ranks at once, from the ceilings of one model.

    `cpu`: ranks share cores. `blocks` is into how many parts the model can be cut.
    """
    nearest = min((c.ranks for c in alike), key=lambda each: count_distance(each, ranks))
    measured = sorted((c for c in alike if c.ranks == nearest), key=lambda c: c.batch)
    assumed = []
    crowd = 1.0
    if nearest != ranks:
        assumed.append(f"compute as of {nearest} ranks at once")
        # A GPU does not care for the others. Ranks on a CPU share its cores: together they get no faster.
        crowd = max(1.0, ranks / nearest) if cpu else 1.0
    one = min(measured, key=lambda c: count_distance(c.batch, batch))
    fixed, each = _batch_curve(alike, nearest)
    if one.batch != batch:
        names = " and ".join(str(c.batch) for c in measured)
        assumed.append(f"compute carried over from batches of {names}")
    scale = (fixed + each * batch) / (fixed + each * one.batch)
    whole_s = crowd * scale * one.forward_backward_s
    return ComputeTime(
        forward_backward_s=whole_s,
        fixed_s=whole_s * fixed / (fixed + each * batch),
        update_s=crowd * one.update_s,
        steps_s=tuple(crowd * scale * step for step in one.step_s),
        flop=one.flop_per_image * batch,
        model=ModelSize(one.parameter_bytes, one.parameter_tensors, blocks),
        assumed=tuple(assumed),
    )


def _batch_curve(alike: Sequence[ComputeCeiling], ranks: int) -> tuple[float, float]:
    """Return how a step grows with its batch: (what it costs without images, what an image costs).

    Least squares over several batches with so many ranks at once, or with another number if that has them:
    only the ratio of the two matters. One batch alone says nothing of a fixed part, and a fit with a
    negative one has none either.
    """
    for count in sorted({c.ranks for c in alike}, key=lambda count: count_distance(count, ranks)):
        points = {c.batch: c.forward_backward_s for c in alike if c.ranks == count}
        if len(points) > 1:
            slope, intercept = statistics.linear_regression(list(points), list(points.values()))
            if slope > 0:
                return max(0.0, intercept), slope
    return 0.0, 1.0


def count_distance(a: int, b: int) -> tuple[float, int]:
    """Return how far two counts are apart, by ratio; of two that are as far the larger one comes first."""
    return abs(math.log(a / b)), -a
