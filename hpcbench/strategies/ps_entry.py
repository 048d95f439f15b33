"""Declaration of the parameter server (ps): options, refused runs, traffic per step, registry entry.

Imports no torch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from annotated_types import Ge, Le

from hpcbench.strategies.data_parallel_entries import Megabytes
from hpcbench.strategies.traffic import GLOO_OR_NCCL, LATENCY_BYTES, MEBIBYTE, every_step, never, no_stages
from hpcbench.sweep.catalog_entries import ModelSize, Options, ProcessLayout, StrategyEntry, Traffic, Transfer
from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class PsOptions:
    """Parameters live on `servers` processes, in CPU memory or on a GPU each, and are updated there.

    `sync`: one update for all workers' gradients; `async`: one for each; `bounded`: one for each, but a
    worker may be at most `max_staleness` steps ahead of the slowest (Ho et al. 2013).
    """

    server: Literal["cpu", "gpu"] = "cpu"
    servers: Annotated[int, Ge(1), Le(1024)] = 1
    mode: Literal["sync", "async", "bounded"] = "sync"
    max_staleness: Annotated[int, Ge(0), Le(1_000_000)] | None = None
    bucket_mb: Megabytes = 1.0


SMOKE_SERVERS = 2


def count_servers(options: Options) -> int:
    """Return how many processes serve."""
    return int(options.get("servers", PsOptions.servers))


def server_device(options: Options) -> str:
    """Return where the servers hold the parameters: "cpu" (in memory) or "gpu"."""
    return str(options.get("server", PsOptions.server))


def is_asynchronous(options: Options) -> bool:
    """Say whether the server updates by each worker's gradient alone, as they come."""
    return str(options.get("mode", PsOptions.mode)) != "sync"


def scale_down_ps(spec: RunSpec) -> RunSpec:
    """Scale a server down with its run: few servers, and in memory where there are no GPUs."""
    options = dict(spec.strategy_options)
    options["servers"] = min(count_servers(options), SMOKE_SERVERS)
    if spec.device == "cpu":
        options["server"] = "cpu"
    return replace(spec, strategy_options=options, servers=options["servers"])


def refuse_ps(spec: RunSpec) -> str | None:
    """Return why a run is impossible, or None."""
    options = PsOptions(**spec.strategy_options)
    backend = {"cpu": "gloo", "gpu": "nccl"}[options.server]
    if options.mode == "bounded" and options.max_staleness is None:
        return "mode bounded needs max_staleness: how many steps a worker may be ahead of the slowest"
    if options.mode != "bounded" and options.max_staleness is not None:
        return f"max_staleness has a meaning in mode bounded only, not in mode {options.mode}"
    if options.server == "gpu" and spec.device == "cpu":
        return "server: gpu needs GPUs, and this run is on CPUs (server: cpu holds the parameters in memory)"
    if spec.backend not in (None, backend):
        return f"server: {options.server} exchanges over {backend}, not over {spec.backend}"
    if options.server == "gpu" and spec.backend is None:
        return "server: gpu exchanges over nccl: say backend: nccl"
    available = spec.resources.nodes * spec.resources.gpus_per_node
    if options.server == "gpu" and spec.ranks + spec.servers > available:
        return (
            f"{spec.ranks} workers and {spec.servers} servers on GPUs of their own need "
            f"{spec.ranks + spec.servers} GPUs, and resources have {available}; say server: cpu, or "
            "fewer ranks"
        )
    return None


def ps_traffic(spec: RunSpec, model: ModelSize) -> Traffic:
    """Every worker pushes M and pulls M; a server moves n M / k each way, and updates M / k.

    At least max(M/B, nM/(kB)) each way (docs/methodology.md). All pieces of a worker are under way at once
    and share their latency; a command goes first. A server deals with one worker's message after the other's
    (the overhead of LogP, Culler et al. 1993). Workers that do not wait for each other are served one by one.
    """
    options = PsOptions(**spec.strategy_options)
    share = model.parameter_bytes / options.servers
    pieces = max(1, math.ceil(share / (options.bucket_mb * MEBIBYTE)))
    workers = spec.ranks if options.mode == "sync" else 1
    one_way = Transfer("send", share / pieces, workers * pieces, latencies=workers)
    return Traffic(
        beside=(Transfer("send", LATENCY_BYTES, workers), one_way, one_way),
        update_share=0.0,
        served_share=1 / options.servers,
    )


def waited_push_and_pull(spec: RunSpec, model: ModelSize) -> tuple[str, float]:
    """Gradients out and parameters back, at best one directly after the other."""
    return "send", 2 * model.parameter_bytes


def is_sync_or_alone(spec: RunSpec) -> bool:
    """Say whether all workers' gradients are of the same parameters."""
    return spec.ranks == 1 or not is_asynchronous(spec.strategy_options)


def copies_through_host(spec: RunSpec) -> bool:
    """Say whether workers on GPUs exchange through host memory."""
    return spec.device == "cuda" and spec.backend != "nccl"


PS = StrategyEntry(
    target="hpcbench.strategies.ps_worker:build", processes=ProcessLayout.DATA_PARALLEL, options=PsOptions,
    backends=GLOO_OR_NCCL, count_servers=count_servers, server_device=server_device, check=refuse_ps,
    smoke=scale_down_ps, traffic=ps_traffic, is_asynchronous=is_asynchronous, steps_per_exchange=every_step,
    exchange_after_backward=never, waited_transfer=waited_push_and_pull, exchange_can_be_left_out=False,
    is_exact=is_sync_or_alone, reference_rank=0, splits_batch_on_devices=False, stage_turns=no_stages,
    copies_through_host=copies_through_host, can_compile=True, trains=True,
    aliases=("ps_mode", "ps_gpu_mode"),
)  # fmt: skip
