"""What a strategy should reach with fewer and with more ranks, up to twice as many as a run has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hpcbench.analysis.ceilings import Ceilings
from hpcbench.analysis.predict import Prediction, Seen, predict
from hpcbench.analysis.predict_traffic import TRAFFIC
from hpcbench.config.spec import RunSpec

FURTHEST = 2  # times the ranks of the run


@dataclass(frozen=True)
class Projected:
    """The prediction for a number of ranks, each with the batch that it has in the run (weak scaling)."""

    ranks: int
    prediction: Prediction


def project(spec: RunSpec, ceilings: Ceilings, seen: Seen | None = None) -> tuple[Projected, ...]:
    """Return predictions for two ranks and their doubles, for the run's own number and for twice that.

    Nothing for a run of one process: what it does with more devices is another strategy's matter.
    """
    if spec.ranks < 2 or spec.strategy not in TRAFFIC:
        return ()
    most = FURTHEST * spec.ranks
    doubles = {2**power for power in range(1, most.bit_length()) if 2**power <= most}
    counts = sorted(n for n in doubles | {spec.ranks, most} if _is_possible(spec, n, ceilings))
    found = ((n, predict(_with_ranks(spec, n), ceilings, seen)) for n in counts)
    return tuple(Projected(n, each) for n, each in found if isinstance(each, Prediction))


def _with_ranks(spec: RunSpec, ranks: int) -> RunSpec:
    shards = ranks if spec.data_shards == spec.ranks else spec.data_shards
    updates = shards if spec.updates_per_step == spec.data_shards else spec.updates_per_step
    return replace(spec, ranks=ranks, data_shards=shards, updates_per_step=updates)


def _is_possible(spec: RunSpec, ranks: int, ceilings: Ceilings) -> bool:
    """Say whether a model has enough blocks for so many stages, as far as that is known."""
    if spec.strategy != "pipeline":
        return True
    return ranks <= ceilings.blocks.get(spec.model, spec.ranks)
