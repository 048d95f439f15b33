"""Declaration of the parameter server (ps): options, refused runs, traffic per step, registry entry.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Le

from hpcbench.strategies.data_parallel_entries import Megabytes

if TYPE_CHECKING:
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


def count_servers(options: Mapping[str, Any]) -> int:
    """Return how many processes serve."""
    return int(options.get("servers", PsOptions().servers))


def is_asynchronous(options: Mapping[str, Any]) -> bool:
    """Say whether the server updates by each worker's gradient alone, as they come."""
    return str(options.get("mode", PsOptions().mode)) != "sync"


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
    there = spec.resources.nodes * spec.resources.gpus_per_node
    if options.server == "gpu" and spec.ranks + spec.servers > there:
        return (
            f"{spec.ranks} workers and {spec.servers} servers on GPUs of their own need "
            f"{spec.ranks + spec.servers} GPUs, and resources have {there}; say server: cpu, or fewer ranks"
        )
    return None
