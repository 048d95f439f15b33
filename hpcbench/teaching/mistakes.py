"""Which mistake is which class."""

from __future__ import annotations

from hpcbench.strategies.base import Precision, Strategy, World
from hpcbench.strategies.options import FaultyOptions
from hpcbench.teaching import clock, exchange

MISTAKES: dict[str, type[Strategy]] = {
    "unequal_start": exchange.UnequalStart,
    "summed_gradients": exchange.SummedGradients,
    "inflated_count": exchange.InflatedCount,
    "straggling_rank": exchange.StragglingRank,
    "evaluates_everything": exchange.EvaluatesEverything,
    "counts_padding": exchange.CountsPadding,
    "drops_last_batch": exchange.DropsLastBatch,
    "blind_clock": clock.BlindClock,
}


def build(world: World, precision: Precision, options: FaultyOptions) -> Strategy:
    """Return the strategy that makes the mistake that `options` name."""
    return MISTAKES[options.mistake](world, precision, options)
