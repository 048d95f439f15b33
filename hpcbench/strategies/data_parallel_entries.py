"""Declarations of the data-parallel strategies without servers (noop, ddp, zero1, fsdp_grad, fsdp_full,
collective, local_sgd, faulty): options, refused runs, traffic per step, registry entry. Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from hpcbench.sweep.run_spec import RunSpec

Megabytes = Annotated[float, Gt(0), Le(100_000)]


@dataclass(frozen=True, kw_only=True)
class NoopOptions:
    """`step_s` is how long a pretended step takes; `fail_at_step` lets a run fail, for tests of jobs."""

    step_s: Annotated[float, Le(3600)] = 0.0
    fail_at_step: int | None = None


@dataclass(frozen=True, kw_only=True)
class DdpOptions:
    """What DistributedDataParallel takes; the defaults are torch's.

    `compression` sends gradients in half precision: less to send, and a little less exact.
    """

    bucket_mb: Megabytes = 25.0
    gradient_as_bucket_view: bool = False
    static_graph: bool = False
    broadcast_buffers: bool = True
    compression: Literal["none", "fp16", "bf16"] = "none"


@dataclass(frozen=True, kw_only=True)
class Zero1Options(DdpOptions):
    """DDP's, and `parameters_as_bucket_view`: each rank sends what it has updated in one message."""

    parameters_as_bucket_view: bool = False


@dataclass(frozen=True, kw_only=True)
class CollectiveOptions:
    """`exchange` says when gradients are reduced, and in which pieces."""

    exchange: Literal["per_parameter", "bucketed", "overlapped"] = "bucketed"
    bucket_mb: Megabytes = 25.0


@dataclass(frozen=True, kw_only=True)
class LocalSgdOptions:
    """`local_steps` is how many steps the ranks do alone between two averages."""

    local_steps: Annotated[int, Ge(1), Le(1_000_000)] = 8


@dataclass(frozen=True, kw_only=True)
class FaultyOptions:
    """Which mistake to make (docs/audit.md); inflated_count counts as if `counted_ranks` had trained."""

    mistake: Literal[
        "unequal_start",
        "summed_gradients",
        "inflated_count",
        "straggling_rank",
        "evaluates_everything",
        "counts_padding",
        "drops_last_batch",
        "blind_clock",
    ] = "unequal_start"
    counted_ranks: Annotated[int, Ge(1), Le(1024)] | None = None


def refuse_channels_last(spec: RunSpec) -> str | None:
    """torch shards parameters only as they usually lie in memory."""
    if spec.channels_last:
        return "torch's fully_shard takes no parameters in channels_last order; say channels_last: false"
    return None
