"""Numbers that a wrong count of ranks leaves behind."""

from __future__ import annotations

TOLERANCE = 0.01  # a mean of rates and the rounding of tables stay below this
MOST_RANKS = 64


def fitting_ranks(factor: float, most: int = MOST_RANKS) -> tuple[int, int] | None:
    """Return (ranks counted, ranks training) of the smallest number whose ratio is the factor within 1 %."""
    for counted in range(2, most + 1):
        training = round(counted / factor)
        if 1 <= training < counted and abs(counted / training / factor - 1) <= TOLERANCE:
            return counted, training
    return None
