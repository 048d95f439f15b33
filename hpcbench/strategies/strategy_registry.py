"""The registry of strategies: STRATEGIES maps each name to its entry. Imports no torch."""

from __future__ import annotations

from dataclasses import replace

from hpcbench.strategies.data_parallel_entries import (
    COLLECTIVE,
    DDP,
    FAULTY,
    FSDP_FULL,
    FSDP_GRAD,
    LOCAL_SGD,
    NOOP,
    ZERO1,
)
from hpcbench.strategies.ps_entry import PS
from hpcbench.strategies.whole_batch_entries import DP, MODEL_PARALLEL, PIPELINE, SINGLE_GPU
from hpcbench.sweep.catalog_entries import ProcessLayout, StrategyEntry

STRATEGIES: dict[str, StrategyEntry] = {
    "noop": NOOP,
    "single_gpu": SINGLE_GPU,
    "dp": DP,
    "ddp": DDP,
    "fsdp_grad": FSDP_GRAD,
    "fsdp_full": FSDP_FULL,
    "zero1": ZERO1,
    "model_parallel": MODEL_PARALLEL,
    "pipeline": PIPELINE,
    "collective": COLLECTIVE,
    "local_sgd": LOCAL_SGD,
    "ps": PS,
    "faulty": FAULTY,
}

# Of a strategy that a record names and this version does not know: nothing is predicted, and nothing trusted.
UNKNOWN = replace(FAULTY, teaching=False)


def find_strategy(name: str) -> StrategyEntry:
    """Return the entry of a strategy that a record names."""
    return STRATEGIES.get(name, UNKNOWN)


def is_baseline(name: str) -> bool:
    """Say whether others are compared with it: one process on one device."""
    return find_strategy(name).processes is ProcessLayout.ONE
