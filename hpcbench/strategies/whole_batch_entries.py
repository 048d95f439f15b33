"""Declarations of the strategies that do not shard the batch over ranks (single_gpu, dp, model_parallel,
pipeline): options, refused runs, traffic per step, registry entry. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Le

from hpcbench.strategies.traffic import (
    GLOO_OR_NCCL,
    LATENCY_BYTES,
    always,
    every_step,
    never,
    no_stages,
    no_traffic,
    no_transfer,
)
from hpcbench.sweep.catalog_entries import ModelSize, ProcessLayout, StrategyEntry, Traffic, Transfer
from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class PipelineOptions:
    """`micro_batches` is into how many parts each batch goes through the stages.

    Where `accumulation` splits a batch already, each of its parts is split once more.
    """

    schedule: Literal["gpipe", "1f1b"] = "gpipe"
    micro_batches: Annotated[int, Ge(1), Le(100_000)] = 4


SMOKE_MICRO_BATCH = 2  # batch normalisation needs two values


def refuse_several_nodes(spec: RunSpec) -> str | None:
    """One process is on one node."""
    if spec.resources.nodes > 1:
        nodes = spec.resources.nodes
        return f"it is one process and cannot reach over {nodes} nodes; say resources: {{nodes: 1}}"
    return None


def refuse_small_micro_batch(spec: RunSpec) -> str | None:
    """Each device takes its share of every micro-batch."""
    micro_batch = spec.batch_size // spec.accumulation
    if micro_batch < spec.devices:
        return f"a micro-batch of {micro_batch} samples leaves some of {spec.devices} devices without any"
    return refuse_several_nodes(spec)


def refuse_pipeline(spec: RunSpec) -> str | None:
    """Micro-batches are equal, enough for the schedule, and can be sent over the backend."""
    count = spec.strategy_options["micro_batches"]
    batch = spec.batch_size // spec.accumulation
    of_what = f"a batch of {spec.batch_size}"
    if spec.accumulation > 1:
        of_what += f" in {spec.accumulation} parts (accumulation)"
    if batch < count:
        return f"{of_what} is smaller than its {count} micro-batches"
    if batch % count:
        fitting = min((n for n in range(1, batch + 1) if batch % n == 0), key=lambda n: abs(n - count))
        return f"{of_what} does not split into {count} equal micro-batches; the nearest number is {fitting}"
    if spec.strategy_options["schedule"] == "1f1b" and count < spec.ranks:
        return (
            f"schedule 1f1b needs at least as many micro-batches as stages, and {count} are fewer than "
            f"{spec.ranks}; say more micro_batches, or schedule: gpipe"
        )
    if spec.device == "cuda" and spec.backend == "gloo":
        return "gloo cannot send from one GPU to another; say backend: nccl"
    return None


def scale_down_pipeline(spec: RunSpec) -> RunSpec:
    """Scale a pipeline down with its batch: as many micro-batches as it still fills."""
    options = dict(spec.strategy_options)
    batch = spec.batch_size // spec.accumulation
    most = max(1, min(options["micro_batches"], batch // SMOKE_MICRO_BATCH))
    options["micro_batches"] = max(n for n in range(1, most + 1) if batch % n == 0)
    if options["micro_batches"] < spec.ranks:
        options["schedule"] = "gpipe"
    return replace(spec, strategy_options=options)


def pipeline_parts(spec: RunSpec) -> int:
    """A pipeline has a part of the model on each rank."""
    return spec.ranks


def model_parallel_parts(spec: RunSpec) -> int:
    """Model parallelism has a part of the model on each device."""
    return spec.devices


def dp_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """Each micro-batch copies the model to n-1 devices and adds n-1 gradients up (torch.nn.DataParallel)."""
    copies = spec.accumulation * (spec.devices - 1)
    if spec.device == "cpu" or not copies:
        return Traffic()  # without GPUs it runs the module itself
    return Traffic(beside=(Transfer("send", model.parameter_bytes, 2 * copies),), unknown="images and logits")


def model_parallel_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """Activations cross each cut, forward and back."""
    return Traffic() if spec.device == "cpu" else Traffic(unknown="activations between the devices")


def pipeline_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """Activations of each micro-batch cross each cut, forward and back: at least their latencies."""
    waits = 2 * (_micro_batches(spec) + spec.ranks - 2) if spec.ranks > 1 else 0
    return Traffic(
        beside=(Transfer("send", LATENCY_BYTES, waits),) if waits else (),
        update_share=1 / spec.ranks,
        unknown="the size of activations between the stages",
    )


def pipeline_turns(spec: RunSpec) -> tuple[float, float]:
    """A pipeline of R stages needs m + R - 1 turns for m micro-batches (Huang et al. 2019, GPipe).

    Each stage does 1/R of the work in m turns, and launches every operation of its stage in each turn.
    """
    micro_batches = _micro_batches(spec)
    turns = micro_batches + spec.ranks - 1
    return turns / micro_batches / spec.ranks, turns / spec.ranks


def _micro_batches(spec: RunSpec) -> int:
    return PipelineOptions(**spec.strategy_options).micro_batches * spec.accumulation


SINGLE_GPU = StrategyEntry(
    target="hpcbench.strategies.strategy_base:Strategy", processes=ProcessLayout.ONE, traffic=no_traffic,
    is_asynchronous=never, steps_per_exchange=every_step, exchange_after_backward=never,
    waited_transfer=no_transfer, exchange_can_be_left_out=False, is_exact=always, reference_rank=2,
    splits_batch_on_devices=False, stage_turns=no_stages, copies_through_host=never, can_compile=True,
    trains=True,
)  # fmt: skip
# dp and pipeline cut a batch further than its shards, and batch normalisation sees only the pieces.
DP = StrategyEntry(
    target="hpcbench.strategies.dp:Dp", processes=ProcessLayout.ONE_MANY_DEVICES,
    check=refuse_small_micro_batch,
    traffic=dp_traffic, is_asynchronous=never, steps_per_exchange=every_step, exchange_after_backward=never,
    waited_transfer=no_transfer, exchange_can_be_left_out=False, is_exact=never, reference_rank=0,
    splits_batch_on_devices=True, stage_turns=no_stages, copies_through_host=never, can_compile=False,
    trains=True,
)  # fmt: skip
MODEL_PARALLEL = StrategyEntry(
    target="hpcbench.strategies.model_parallel:ModelParallel", processes=ProcessLayout.ONE_MANY_DEVICES,
    check=refuse_several_nodes, parts=model_parallel_parts, traffic=model_parallel_traffic,
    is_asynchronous=never, steps_per_exchange=every_step, exchange_after_backward=never,
    waited_transfer=no_transfer, exchange_can_be_left_out=False, is_exact=always, reference_rank=0,
    splits_batch_on_devices=False, stage_turns=no_stages, copies_through_host=never, can_compile=False,
    trains=True,
)  # fmt: skip
PIPELINE = StrategyEntry(
    target="hpcbench.strategies.pipeline:Pipeline", processes=ProcessLayout.STAGES, options=PipelineOptions,
    backends=GLOO_OR_NCCL, check=refuse_pipeline, parts=pipeline_parts, smoke=scale_down_pipeline,
    traffic=pipeline_traffic, is_asynchronous=never, steps_per_exchange=every_step,
    exchange_after_backward=never, waited_transfer=no_transfer, exchange_can_be_left_out=False,
    is_exact=never, reference_rank=0, splits_batch_on_devices=False, stage_turns=pipeline_turns,
    copies_through_host=never, can_compile=False, trains=True,
)  # fmt: skip
