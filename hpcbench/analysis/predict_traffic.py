"""What each strategy sends in a step: one small function for each; docs/strategies.md has them as a table.

M is the size of the parameters in bytes, n the training ranks, A the micro-batches of `accumulation`. Sizes
are those of one message as the operation takes it; what of it crosses the link is the link's matter.
All-gather and reduce-scatter are each half of a ring all-reduce (Thakur, Rabenseifner, Gropp 2005,
"Optimization of collective communication operations in MPICH", IJHPCA 19(1)), which is what was measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from hpcbench.strategies.data_parallel_entries import (
    CollectiveOptions,
    DdpOptions,
    LocalSgdOptions,
    Zero1Options,
)
from hpcbench.strategies.ps_entry import PsOptions
from hpcbench.strategies.whole_batch_entries import PipelineOptions
from hpcbench.sweep.run_spec import RunSpec

MEBIBYTE = 1024 * 1024
FIRST_BUCKET = MEBIBYTE  # DDP's: torch.distributed._DEFAULT_FIRST_BUCKET_BYTES
HALF = 0.5  # of an all-reduce
SMALL = 64.0  # bytes: a message that costs its latency only
BUFFER_KINDS = 2  # batch normalisation keeps floats and counts: a broadcast of each


@dataclass(frozen=True)
class Model:
    """What a strategy needs to know of a model. `blocks` is into how many parts fsdp cuts it."""

    parameter_bytes: int
    parameter_tensors: int
    blocks: int = 1


@dataclass(frozen=True)
class Transfer:
    """So many messages of a size in a step. `share` is the part of the operation that is done.

    `latencies` is how many of them are waited for one after the other: messages that are under way together
    share their latency. None: each waits for the one before.
    """

    operation: str  # all_reduce | broadcast | send
    size_bytes: float
    times: float
    share: float = 1.0
    latencies: float | None = None


@dataclass(frozen=True)
class Traffic:
    """What is sent `during` the backward pass, where it may be hidden, and what is sent beside it.

    `update_share` is how much of the optimizer's work a rank has, `served_share` how much of it is done by a
    server while ranks wait. `unknown` names what is sent besides and has no figure.
    """

    during: tuple[Transfer, ...] = ()
    beside: tuple[Transfer, ...] = ()
    update_share: float = 1.0
    served_share: float = 0.0
    unknown: str | None = None

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """Everything that is sent."""
        return (*self.during, *self.beside)


def alone(spec: RunSpec, model: Model) -> Traffic:
    """One process sends nothing."""
    return Traffic()


def dp(spec: RunSpec, model: Model) -> Traffic:
    """Each micro-batch copies the model to n-1 devices and adds n-1 gradients up (torch.nn.DataParallel)."""
    copies = spec.accumulation * (spec.devices - 1)
    if spec.device == "cpu" or not copies:
        return Traffic()  # without GPUs it runs the module itself
    return Traffic(beside=(Transfer("send", model.parameter_bytes, 2 * copies),), unknown="images and logits")


def ddp(spec: RunSpec, model: Model) -> Traffic:
    """One all-reduce a bucket, the first of 1 MiB, and a broadcast of buffers a forward (Li et al. 2020)."""
    options = DdpOptions(**spec.strategy_options)
    return Traffic(during=_ddp_buckets(options, model), beside=_buffers(options, spec))


def zero1(spec: RunSpec, model: Model) -> Traffic:
    """DDP, and every tensor broadcast by who updated it (Rajbhandari et al. 2020, stage 1)."""
    options = Zero1Options(**spec.strategy_options)
    messages = spec.ranks if options.parameters_as_bucket_view else model.parameter_tensors
    updated = Transfer("broadcast", model.parameter_bytes / messages, messages)
    return Traffic(
        during=_ddp_buckets(options, model),
        beside=(*_buffers(options, spec), updated),
        update_share=1 / spec.ranks,
    )


def collective(spec: RunSpec, model: Model) -> Traffic:
    """One all-reduce a tensor, or a bucket; only `overlapped` buckets leave while backward runs."""
    options = CollectiveOptions(**spec.strategy_options)
    if options.exchange == "per_parameter":
        tensors = model.parameter_tensors
        return Traffic(beside=(Transfer("all_reduce", model.parameter_bytes / tensors, tensors),))
    buckets = _buckets(model.parameter_bytes, options.bucket_mb * MEBIBYTE)
    return Traffic(during=buckets) if options.exchange == "overlapped" else Traffic(beside=buckets)


def local_sgd(spec: RunSpec, model: Model) -> Traffic:
    """One all-reduce of everything each `local_steps` (Stich 2019)."""
    every = LocalSgdOptions(**spec.strategy_options).local_steps
    return Traffic(beside=(Transfer("all_reduce", model.parameter_bytes, 1 / every),))


def fsdp_grad(spec: RunSpec, model: Model) -> Traffic:
    """A B all-gathers and B reduce-scatters of a block each: about what DDP moves (A = 1)."""
    return _sharded(spec, model, gathers=spec.accumulation)


def fsdp_full(spec: RunSpec, model: Model) -> Traffic:
    """Blocks are gathered again for backward: 1.5 times what DDP moves (A = 1)."""
    return _sharded(spec, model, gathers=2 * spec.accumulation)


def model_parallel(spec: RunSpec, model: Model) -> Traffic:
    """Activations cross each cut, forward and back."""
    return Traffic() if spec.device == "cpu" else Traffic(unknown="activations between the devices")


def pipeline(spec: RunSpec, model: Model) -> Traffic:
    """Activations of each micro-batch cross each cut, forward and back: at least their latencies."""
    parts = PipelineOptions(**spec.strategy_options).micro_batches * spec.accumulation
    waits = 2 * (parts + spec.ranks - 2) if spec.ranks > 1 else 0
    return Traffic(
        beside=(Transfer("send", SMALL, waits),) if waits else (),
        update_share=1 / spec.ranks,
        unknown="the size of activations between the stages",
    )


def ps(spec: RunSpec, model: Model) -> Traffic:
    """Every worker pushes M and pulls M; a server moves n M / k each way, and updates M / k.

    At least max(M/B, nM/(kB)) each way (MEASURING, formulas). All pieces of a worker are under way at once
    and share their latency; a command goes first. A server deals with one worker's message after the other's
    (the overhead of LogP, Culler et al. 1993). Workers that do not wait for each other are served one by one.
    """
    options = PsOptions(**spec.strategy_options)
    share = model.parameter_bytes / options.servers
    pieces = max(1, math.ceil(share / (options.bucket_mb * MEBIBYTE)))
    workers = spec.ranks if options.mode == "sync" else 1
    one_way = Transfer("send", share / pieces, workers * pieces, latencies=workers)
    return Traffic(
        beside=(Transfer("send", SMALL, workers), one_way, one_way),
        update_share=0.0,
        served_share=1 / options.servers,
    )


def _ddp_buckets(options: DdpOptions, model: Model) -> tuple[Transfer, ...]:
    sent = model.parameter_bytes * (1 if options.compression == "none" else HALF)
    first = min(sent, FIRST_BUCKET)
    rest = sent - first
    return (Transfer("all_reduce", first, 1), *(_buckets(rest, options.bucket_mb * MEBIBYTE) if rest else ()))


def _buffers(options: DdpOptions, spec: RunSpec) -> tuple[Transfer, ...]:
    times = BUFFER_KINDS * spec.accumulation
    return (Transfer("broadcast", SMALL, times),) if options.broadcast_buffers else ()


def _buckets(size_bytes: float, bucket_bytes: float) -> tuple[Transfer, ...]:
    number = max(1, math.ceil(size_bytes / bucket_bytes))
    return (Transfer("all_reduce", size_bytes / number, number),)


def _sharded(spec: RunSpec, model: Model, *, gathers: int) -> Traffic:
    block = model.parameter_bytes / model.blocks
    times = model.blocks * (gathers + 1)  # one reduce-scatter besides
    return Traffic(during=(Transfer("all_reduce", block, times, share=HALF),), update_share=1 / spec.ranks)


TRAFFIC: dict[str, Callable[[RunSpec, Model], Traffic]] = {
    "single_gpu": alone,
    "dp": dp,
    "ddp": ddp,
    "zero1": zero1,
    "collective": collective,
    "local_sgd": local_sgd,
    "fsdp_grad": fsdp_grad,
    "fsdp_full": fsdp_full,
    "model_parallel": model_parallel,
    "pipeline": pipeline,
    "ps": ps,
}


def bytes_sent(spec: RunSpec, model: Model) -> float:
    """Return what one training rank sends in a step, by the ring formulas; activations left out."""
    n = spec.ranks
    factors = {"all_reduce": 2 * (n - 1) / n, "broadcast": (n - 1) / n, "send": 1.0}
    if spec.strategy == "ps":
        return float(model.parameter_bytes)
    transfers = TRAFFIC[spec.strategy](spec, model).transfers
    return sum(t.size_bytes * t.times * t.share * factors[t.operation] for t in transfers)
