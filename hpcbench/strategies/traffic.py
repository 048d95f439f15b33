"""What the strategy entries share: parts of traffic formulas, and properties that most strategies have.

M is the size of the parameters in bytes, n the training ranks, A the micro-batches of `accumulation`. Sizes
are those of one message as the operation takes it; how much of it crosses the link depends on the link.
All-gather and reduce-scatter are each half of a ring all-reduce (Thakur, Rabenseifner, Gropp 2005,
"Optimization of collective communication operations in MPICH", IJHPCA 19(1)), which is what was measured.
docs/strategies.md has all formulas as a table. Imports no torch.
"""

from __future__ import annotations

import math

from hpcbench.sweep.catalog_entries import ModelSize, Options, Traffic, Transfer
from hpcbench.sweep.run_spec import RunSpec

GLOO_OR_NCCL = ("gloo", "nccl")
MEBIBYTE = 1024 * 1024
HALF = 0.5  # of an all-reduce
LATENCY_BYTES = 64.0  # a message that costs its latency only


def all_reduce_buckets(size_bytes: float, bucket_bytes: float) -> tuple[Transfer, ...]:
    """Return one all-reduce for each bucket."""
    number = max(1, math.ceil(size_bytes / bucket_bytes))
    return (Transfer("all_reduce", size_bytes / number, number),)


def no_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """One process sends nothing."""
    return Traffic()


def no_transfer(spec: RunSpec, model: ModelSize) -> None:
    """No transfer is certainly waited for."""


def never(_: RunSpec | Options) -> bool:
    """Return False for all runs."""
    return False


def always(_: RunSpec | Options) -> bool:
    """Return True for all runs."""
    return True


def every_step(options: Options) -> int:
    """Exchange in every step."""
    return 1


def no_stages(spec: RunSpec) -> tuple[float, float]:
    """Each process does the whole step."""
    return 1.0, 1.0
