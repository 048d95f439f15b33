"""Declarations of the data-parallel strategies without servers (noop, ddp, zero1, fsdp_grad, fsdp_full,
collective, local_sgd, faulty): options, refused runs, traffic per step, registry entry. Imports no
torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from hpcbench.strategies.traffic import (
    GLOO_OR_NCCL,
    HALF,
    LATENCY_BYTES,
    MEBIBYTE,
    all_reduce_buckets,
    always,
    every_step,
    never,
    no_stages,
    no_transfer,
)
from hpcbench.sweep.catalog_entries import ModelSize, Options, ProcessLayout, StrategyEntry, Traffic, Transfer
from hpcbench.sweep.run_spec import RunSpec

FIRST_BUCKET = MEBIBYTE  # DDP's: torch.distributed._DEFAULT_FIRST_BUCKET_BYTES
BUFFER_KINDS = 2  # batch normalisation keeps floats and counts: a broadcast of each

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


def ddp_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """One all-reduce a bucket, the first of 1 MiB, and a broadcast of buffers a forward (Li et al. 2020)."""
    options = DdpOptions(**spec.strategy_options)
    return Traffic(during=_ddp_buckets(options, model), beside=_buffers(options, spec))


def zero1_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """DDP, and every tensor broadcast by the rank that updated it (Rajbhandari et al. 2020, stage 1)."""
    options = Zero1Options(**spec.strategy_options)
    messages = spec.ranks if options.parameters_as_bucket_view else model.parameter_tensors
    updated = Transfer("broadcast", model.parameter_bytes / messages, messages)
    return Traffic(
        during=_ddp_buckets(options, model),
        beside=(*_buffers(options, spec), updated),
        update_share=1 / spec.ranks,
    )


def collective_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """One all-reduce a tensor, or a bucket; only `overlapped` buckets leave while backward runs."""
    options = CollectiveOptions(**spec.strategy_options)
    if options.exchange == "per_parameter":
        tensors = model.parameter_tensors
        return Traffic(beside=(Transfer("all_reduce", model.parameter_bytes / tensors, tensors),))
    buckets = all_reduce_buckets(model.parameter_bytes, options.bucket_mb * MEBIBYTE)
    return Traffic(during=buckets) if options.exchange == "overlapped" else Traffic(beside=buckets)


def local_sgd_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """One all-reduce of everything each `local_steps` (Stich 2019)."""
    interval = local_steps(spec.strategy_options)
    return Traffic(beside=(Transfer("all_reduce", model.parameter_bytes, 1 / interval),))


def fsdp_grad_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """A B all-gathers and B reduce-scatters of a block each: about what DDP moves (A = 1)."""
    return _sharded(spec, model, gathers=spec.accumulation)


def fsdp_full_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """Blocks are gathered again for backward: 1.5 times what DDP moves (A = 1)."""
    return _sharded(spec, model, gathers=2 * spec.accumulation)


def _ddp_buckets(options: DdpOptions, model: ModelSize) -> tuple[Transfer, ...]:
    sent = model.parameter_bytes * (1 if options.compression == "none" else HALF)
    first = Transfer("all_reduce", min(sent, FIRST_BUCKET), 1)
    if sent <= FIRST_BUCKET:
        return (first,)
    return (first, *all_reduce_buckets(sent - FIRST_BUCKET, options.bucket_mb * MEBIBYTE))


def _buffers(options: DdpOptions, spec: RunSpec) -> tuple[Transfer, ...]:
    times = BUFFER_KINDS * spec.accumulation
    return (Transfer("broadcast", LATENCY_BYTES, times),) if options.broadcast_buffers else ()


def _sharded(spec: RunSpec, model: ModelSize, *, gathers: int) -> Traffic:
    block = model.parameter_bytes / model.blocks
    times = model.blocks * (gathers + 1)  # one reduce-scatter besides
    return Traffic(during=(Transfer("all_reduce", block, times, share=HALF),), update_share=1 / spec.ranks)


def is_uncompressed(spec: RunSpec) -> bool:
    """Say whether gradients are sent in their own precision."""
    return str(spec.strategy_options.get("compression", DdpOptions.compression)) == "none"


def exchanges_after_backward(options: Options) -> bool:
    """Say whether the collective exchange begins when the backward pass has ended."""
    return str(options.get("exchange", CollectiveOptions.exchange)) != "overlapped"


def waited_all_reduce(spec: RunSpec, model: ModelSize) -> tuple[str, float] | None:
    """An all-reduce of all gradients, if it begins after the backward pass."""
    waits = spec.ranks > 1 and exchanges_after_backward(spec.strategy_options)
    return ("all_reduce", model.parameter_bytes) if waits else None


def local_steps(options: Options) -> int:
    """Return the steps that the ranks of local SGD train alone between two averages."""
    return int(options.get("local_steps", LocalSgdOptions.local_steps))


def averages_every_step(spec: RunSpec) -> bool:
    """Say whether local SGD equals data parallelism, up to rounding."""
    return spec.ranks == 1 or local_steps(spec.strategy_options) == 1


NOOP = StrategyEntry(
    target="hpcbench.training.noop_loop:NoopStrategy", processes=ProcessLayout.DATA_PARALLEL,
    options=NoopOptions,
    traffic=None, is_asynchronous=never, steps_per_exchange=every_step, exchange_after_backward=never,
    waited_transfer=no_transfer, exchange_can_be_left_out=False, is_exact=always, reference_rank=0,
    splits_batch_on_devices=False, stage_turns=no_stages, copies_through_host=never, can_compile=True,
    trains=False, torch_free=True,
)  # fmt: skip
DDP = StrategyEntry(
    target="hpcbench.strategies.ddp:Ddp", processes=ProcessLayout.DATA_PARALLEL, options=DdpOptions,
    backends=GLOO_OR_NCCL, traffic=ddp_traffic, is_asynchronous=never, steps_per_exchange=every_step,
    exchange_after_backward=never, waited_transfer=no_transfer, exchange_can_be_left_out=True,
    is_exact=is_uncompressed, reference_rank=3, splits_batch_on_devices=False, stage_turns=no_stages,
    copies_through_host=never, can_compile=True, trains=True,
)  # fmt: skip
FSDP_GRAD = StrategyEntry(
    target="hpcbench.strategies.fsdp:FsdpGrad", processes=ProcessLayout.DATA_PARALLEL, backends=GLOO_OR_NCCL,
    check=refuse_channels_last, traffic=fsdp_grad_traffic, is_asynchronous=never,
    steps_per_exchange=every_step, exchange_after_backward=never, waited_transfer=no_transfer,
    exchange_can_be_left_out=False, is_exact=always, reference_rank=0, splits_batch_on_devices=False,
    stage_turns=no_stages, copies_through_host=never, can_compile=True, trains=True,
)  # fmt: skip
FSDP_FULL = StrategyEntry(
    target="hpcbench.strategies.fsdp:FsdpFull", processes=ProcessLayout.DATA_PARALLEL, backends=GLOO_OR_NCCL,
    check=refuse_channels_last, traffic=fsdp_full_traffic, is_asynchronous=never,
    steps_per_exchange=every_step, exchange_after_backward=never, waited_transfer=no_transfer,
    exchange_can_be_left_out=False, is_exact=always, reference_rank=0, splits_batch_on_devices=False,
    stage_turns=no_stages, copies_through_host=never, can_compile=True, trains=True, aliases=("fsdp",),
)  # fmt: skip
ZERO1 = StrategyEntry(
    target="hpcbench.strategies.zero1:Zero1", processes=ProcessLayout.DATA_PARALLEL, options=Zero1Options,
    backends=GLOO_OR_NCCL, traffic=zero1_traffic, is_asynchronous=never, steps_per_exchange=every_step,
    exchange_after_backward=never, waited_transfer=no_transfer, exchange_can_be_left_out=True,
    is_exact=is_uncompressed, reference_rank=0, splits_batch_on_devices=False, stage_turns=no_stages,
    copies_through_host=never, can_compile=True, trains=True,
)  # fmt: skip
COLLECTIVE = StrategyEntry(
    target="hpcbench.strategies.collective:build", processes=ProcessLayout.DATA_PARALLEL,
    options=CollectiveOptions, backends=GLOO_OR_NCCL, traffic=collective_traffic, is_asynchronous=never,
    steps_per_exchange=every_step, exchange_after_backward=exchanges_after_backward,
    waited_transfer=waited_all_reduce, exchange_can_be_left_out=True, is_exact=always, reference_rank=1,
    splits_batch_on_devices=False, stage_turns=no_stages, copies_through_host=never, can_compile=True,
    trains=True,
)  # fmt: skip
LOCAL_SGD = StrategyEntry(
    target="hpcbench.strategies.local_sgd:LocalSgd", processes=ProcessLayout.DATA_PARALLEL,
    options=LocalSgdOptions, backends=GLOO_OR_NCCL, traffic=local_sgd_traffic, is_asynchronous=never,
    steps_per_exchange=local_steps, exchange_after_backward=never, waited_transfer=no_transfer,
    exchange_can_be_left_out=True, is_exact=averages_every_step, reference_rank=0,
    splits_batch_on_devices=False, stage_turns=no_stages, copies_through_host=never, can_compile=True,
    trains=True,
)  # fmt: skip
# What is wrong on purpose promises to be exact, so that the audit finds it.
FAULTY = StrategyEntry(
    target="hpcbench.teaching.faulty_methods:build", processes=ProcessLayout.DATA_PARALLEL,
    options=FaultyOptions, backends=GLOO_OR_NCCL, traffic=None, is_asynchronous=never,
    steps_per_exchange=every_step, exchange_after_backward=never, waited_transfer=no_transfer,
    exchange_can_be_left_out=False, is_exact=always, reference_rank=0, splits_batch_on_devices=False,
    stage_turns=no_stages, copies_through_host=never, can_compile=True, trains=True, teaching=True,
)  # fmt: skip
