"""The strategies, one file each, and the table of their names. Importing this imports no torch."""

from __future__ import annotations

from hpcbench.config.catalog import Processes, StrategyEntry, only_for_teaching
from hpcbench.strategies import checks, ps_rules
from hpcbench.strategies.options import (
    CollectiveOptions,
    DdpOptions,
    FaultyOptions,
    LocalSgdOptions,
    NoopOptions,
    PipelineOptions,
    PsOptions,
    Zero1Options,
)

GLOO_OR_NCCL = ("gloo", "nccl")

STRATEGIES: dict[str, StrategyEntry] = {
    "noop": StrategyEntry(
        target="hpcbench.strategies.noop:Noop",
        processes=Processes.DATA_PARALLEL,
        options=NoopOptions,
        torch_free=True,
    ),
    "single_gpu": StrategyEntry(target="hpcbench.strategies.base:Strategy", processes=Processes.ONE),
    "dp": StrategyEntry(
        target="hpcbench.strategies.dp:Dp",
        processes=Processes.ONE_MANY_DEVICES,
        check=checks.data_parallel_in_one_process,
    ),
    "ddp": StrategyEntry(
        target="hpcbench.strategies.ddp:Ddp",
        processes=Processes.DATA_PARALLEL,
        options=DdpOptions,
        backends=GLOO_OR_NCCL,
    ),
    "fsdp_grad": StrategyEntry(
        target="hpcbench.strategies.fsdp:FsdpGrad",
        processes=Processes.DATA_PARALLEL,
        backends=GLOO_OR_NCCL,
        check=checks.fully_sharded,
    ),
    "fsdp_full": StrategyEntry(
        target="hpcbench.strategies.fsdp:FsdpFull",
        processes=Processes.DATA_PARALLEL,
        backends=GLOO_OR_NCCL,
        check=checks.fully_sharded,
    ),
    "zero1": StrategyEntry(
        target="hpcbench.strategies.zero1:Zero1",
        processes=Processes.DATA_PARALLEL,
        options=Zero1Options,
        backends=GLOO_OR_NCCL,
    ),
    "model_parallel": StrategyEntry(
        target="hpcbench.strategies.model_parallel:ModelParallel",
        processes=Processes.ONE_MANY_DEVICES,
        check=checks.one_process,
        parts=checks.devices,
    ),
    "pipeline": StrategyEntry(
        target="hpcbench.strategies.pipeline:Pipeline",
        processes=Processes.STAGES,
        options=PipelineOptions,
        backends=GLOO_OR_NCCL,
        check=checks.pipeline,
        parts=checks.stages,
        smoke=checks.small_pipeline,
    ),
    "collective": StrategyEntry(
        target="hpcbench.strategies.collective:build",
        processes=Processes.DATA_PARALLEL,
        options=CollectiveOptions,
        backends=GLOO_OR_NCCL,
    ),
    "local_sgd": StrategyEntry(
        target="hpcbench.strategies.local_sgd:LocalSgd",
        processes=Processes.DATA_PARALLEL,
        options=LocalSgdOptions,
        backends=GLOO_OR_NCCL,
    ),
    "ps": StrategyEntry(
        target="hpcbench.strategies.ps:build",
        processes=Processes.DATA_PARALLEL,
        options=PsOptions,
        backends=GLOO_OR_NCCL,
        updates_alone=ps_rules.is_asynchronous,
        extra_processes=ps_rules.count_servers,
        check=ps_rules.refuse,
        smoke=ps_rules.shrink,
    ),
    "faulty": StrategyEntry(
        target="hpcbench.teaching.mistakes:build",
        processes=Processes.DATA_PARALLEL,
        options=FaultyOptions,
        backends=GLOO_OR_NCCL,
        check=only_for_teaching,
    ),
}
