"""The registry of strategies: STRATEGIES maps each name to its entry. Imports no torch."""

from __future__ import annotations

from hpcbench.strategies import data_parallel_entries, ps_entry, whole_batch_entries
from hpcbench.strategies.data_parallel_entries import (
    CollectiveOptions,
    DdpOptions,
    FaultyOptions,
    LocalSgdOptions,
    NoopOptions,
    Zero1Options,
)
from hpcbench.strategies.ps_entry import PsOptions
from hpcbench.strategies.whole_batch_entries import PipelineOptions
from hpcbench.sweep.catalog_entries import ProcessLayout, StrategyEntry, only_for_teaching

GLOO_OR_NCCL = ("gloo", "nccl")

STRATEGIES: dict[str, StrategyEntry] = {
    "noop": StrategyEntry(
        target="hpcbench.training.noop_loop:NoopStrategy",
        processes=ProcessLayout.DATA_PARALLEL,
        options=NoopOptions,
        torch_free=True,
    ),
    "single_gpu": StrategyEntry(
        target="hpcbench.strategies.strategy_base:Strategy", processes=ProcessLayout.ONE
    ),
    "dp": StrategyEntry(
        target="hpcbench.strategies.dp:Dp",
        processes=ProcessLayout.ONE_MANY_DEVICES,
        check=whole_batch_entries.refuse_small_micro_batch,
    ),
    "ddp": StrategyEntry(
        target="hpcbench.strategies.ddp:Ddp",
        processes=ProcessLayout.DATA_PARALLEL,
        options=DdpOptions,
        backends=GLOO_OR_NCCL,
    ),
    "fsdp_grad": StrategyEntry(
        target="hpcbench.strategies.fsdp:FsdpGrad",
        processes=ProcessLayout.DATA_PARALLEL,
        backends=GLOO_OR_NCCL,
        check=data_parallel_entries.refuse_channels_last,
    ),
    "fsdp_full": StrategyEntry(
        target="hpcbench.strategies.fsdp:FsdpFull",
        processes=ProcessLayout.DATA_PARALLEL,
        backends=GLOO_OR_NCCL,
        check=data_parallel_entries.refuse_channels_last,
    ),
    "zero1": StrategyEntry(
        target="hpcbench.strategies.zero1:Zero1",
        processes=ProcessLayout.DATA_PARALLEL,
        options=Zero1Options,
        backends=GLOO_OR_NCCL,
    ),
    "model_parallel": StrategyEntry(
        target="hpcbench.strategies.model_parallel:ModelParallel",
        processes=ProcessLayout.ONE_MANY_DEVICES,
        check=whole_batch_entries.refuse_several_nodes,
        parts=whole_batch_entries.model_parallel_parts,
    ),
    "pipeline": StrategyEntry(
        target="hpcbench.strategies.pipeline:Pipeline",
        processes=ProcessLayout.STAGES,
        options=PipelineOptions,
        backends=GLOO_OR_NCCL,
        check=whole_batch_entries.refuse_pipeline,
        parts=whole_batch_entries.pipeline_parts,
        smoke=whole_batch_entries.scale_down_pipeline,
    ),
    "collective": StrategyEntry(
        target="hpcbench.strategies.collective:build",
        processes=ProcessLayout.DATA_PARALLEL,
        options=CollectiveOptions,
        backends=GLOO_OR_NCCL,
    ),
    "local_sgd": StrategyEntry(
        target="hpcbench.strategies.local_sgd:LocalSgd",
        processes=ProcessLayout.DATA_PARALLEL,
        options=LocalSgdOptions,
        backends=GLOO_OR_NCCL,
    ),
    "ps": StrategyEntry(
        target="hpcbench.strategies.ps_worker:build",
        processes=ProcessLayout.DATA_PARALLEL,
        options=PsOptions,
        backends=GLOO_OR_NCCL,
        updates_alone=ps_entry.is_asynchronous,
        extra_processes=ps_entry.count_servers,
        check=ps_entry.refuse_ps,
        smoke=ps_entry.scale_down_ps,
    ),
    "faulty": StrategyEntry(
        target="hpcbench.teaching.faulty_strategies:build",
        processes=ProcessLayout.DATA_PARALLEL,
        options=FaultyOptions,
        backends=GLOO_OR_NCCL,
        check=only_for_teaching,
    ),
}
