"""The strategies, one file each, and the table of their names. Importing this imports no torch."""

from __future__ import annotations

from hpcbench.config.catalog import Processes, StrategyEntry
from hpcbench.strategies.options import CollectiveOptions, DdpOptions, NoopOptions

GLOO_OR_NCCL = ("gloo", "nccl")

STRATEGIES: dict[str, StrategyEntry] = {
    "noop": StrategyEntry(
        target="hpcbench.strategies.noop:Noop",
        processes=Processes.DATA_PARALLEL,
        options=NoopOptions,
        torch_free=True,
    ),
    "single_gpu": StrategyEntry(target="hpcbench.strategies.base:Strategy", processes=Processes.ONE),
    "ddp": StrategyEntry(
        target="hpcbench.strategies.ddp:Ddp",
        processes=Processes.DATA_PARALLEL,
        options=DdpOptions,
        backends=GLOO_OR_NCCL,
    ),
    "collective": StrategyEntry(
        target="hpcbench.strategies.collective:build",
        processes=Processes.DATA_PARALLEL,
        options=CollectiveOptions,
        backends=GLOO_OR_NCCL,
    ),
}
