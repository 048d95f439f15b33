"""Declarations of the strategies that do not shard the batch over ranks (single_gpu, dp, model_parallel,
pipeline): options, refused runs, traffic per step, registry entry. Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Le

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
