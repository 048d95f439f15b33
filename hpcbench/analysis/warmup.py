"""Where a run really was warm: found from its windows, beyond the warm-up steps that the run declares.

The first window whose step takes no more than 5 % longer than the median of those after it counts, and all
after it. At most a quarter of the windows can be found cold: what changes later is no warm-up.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

TOLERANCE = 0.05
LARGEST_SHARE = 0.25


def cold_windows(step_s: Sequence[float]) -> int:
    """Return how many windows at the beginning are not warm yet; `step_s` is the mean step of each.

    The bound where none of the first quarter is warm.
    """
    most = int(LARGEST_SHARE * len(step_s))
    for index in range(most):
        if step_s[index] <= (1 + TOLERANCE) * statistics.median(step_s[index + 1 :]):
            return index
    return most
