"""Entry types of the catalog of strategies, models and data sets.

The registries themselves stand beside what they name (`strategies/strategy_registry.py`,
`tasks/task_registry.py`); this module defines what an entry holds, so that the configuration can check names
and options without importing torch.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpcbench.sweep.run_spec import RunSpec


@dataclass(frozen=True, kw_only=True)
class NoOptions:
    """Options of something that has none."""


class ProcessLayout(Enum):
    """How many training processes a strategy has, and how they share a batch (docs/sweeps.md)."""

    ONE = "one process, one device"
    ONE_MANY_DEVICES = "one process, several devices"
    DATA_PARALLEL = "one process a device, each with its own shard of the batch"
    STAGES = "one process a device, all on one batch"


RefusalCheck = Callable[["RunSpec"], str | None]
Options = Mapping[str, Any]


@dataclass(frozen=True)
class ModelSize:
    """The size of a model as the traffic formulas need it. `blocks` is the number of parts fsdp shards."""

    parameter_bytes: int
    parameter_tensors: int
    blocks: int = 1


@dataclass(frozen=True)
class Transfer:
    """Messages of one size in a step, `times` of them. `share` is the part of the operation that is done.

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

    `update_share` is a rank's share of the optimizer's work, `served_share` the share that a server does
    while ranks wait. `unknown` names what is sent besides and cannot be calculated.
    """

    during: tuple[Transfer, ...] = ()
    beside: tuple[Transfer, ...] = ()
    update_share: float = 1.0
    served_share: float = 0.0
    unknown: str | None = None

    @property
    def transfers(self) -> tuple[Transfer, ...]:
        """All messages of a step."""
        return (*self.during, *self.beside)


def load_target(target: str) -> Any:
    """Import what `package.module:name` names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


@dataclass(frozen=True, kw_only=True)
class CatalogEntry:
    """An entry of a registry: `target` is `package.module:name` of what makes the thing."""

    target: str

    def load(self) -> Any:
        """Import what makes it."""
        return load_target(self.target)


@dataclass(frozen=True, kw_only=True)
class StrategyEntry(CatalogEntry):
    """Everything that the package outside of hpcbench/strategies knows of a strategy.

    Properties that the prediction, the audit or the ranking depend on have no default: each strategy states
    them. Functions of `options` take `RunSpec.strategy_options`; a missing option has its default value.

    processes: how many processes it has and how they share a batch.
    traffic: the messages of a training rank's step; None where there is nothing to predict.
    is_asynchronous: whether a server applies each rank's gradient alone, as it comes.
    steps_per_exchange: how many steps the ranks train alone between two exchanges.
    exchange_after_backward: whether all communication is in the exchange phase, none in the backward pass.
    waited_transfer: (operation, bytes) that a rank certainly waits for in the exchange phase, a lower bound.
    exchange_can_be_left_out: whether a step works without its exchange, so that ablation can measure it.
    is_exact: whether the run has to learn what one process learns, within the tolerance of parity.
    reference_rank: where groups of runs disagree, the strategy with the highest rank is taken for right.
    splits_batch_on_devices: whether a process with several GPUs divides its batch over them.
    stage_turns: factors of a step's time (of the part that grows with the batch, of the launches).
    copies_through_host: whether gradients and parameters cross between device and host memory.
    can_compile: whether torch.compile can take its model.
    trains: whether it trains anything.

    backends: empty where it does not communicate.
    server_device: where its servers hold the parameters, "cpu" or "gpu"; None without servers.
    torch_free: whether it runs without torch.
    teaching: whether it is wrong on purpose; such runs are never ranked.
    aliases: other names of it in tables that other programs wrote.
    check: why a run of it is impossible, or None.
    parts: the number of consecutive parts it cuts the model into, which needs as many blocks.
    smoke: scales down its own options of a run that `--smoke` has scaled down.
    """

    processes: ProcessLayout
    traffic: Callable[[RunSpec, ModelSize], Traffic] | None
    is_asynchronous: Callable[[Options], bool]
    steps_per_exchange: Callable[[Options], int]
    exchange_after_backward: Callable[[Options], bool]
    waited_transfer: Callable[[RunSpec, ModelSize], tuple[str, float] | None]
    exchange_can_be_left_out: bool
    is_exact: Callable[[RunSpec], bool]
    reference_rank: int
    splits_batch_on_devices: bool
    stage_turns: Callable[[RunSpec], tuple[float, float]]
    copies_through_host: Callable[[RunSpec], bool]
    can_compile: bool
    trains: bool
    options: type = NoOptions
    backends: tuple[str, ...] = ()
    count_servers: Callable[[Options], int] = lambda options: 0
    server_device: Callable[[Options], str | None] = lambda options: None
    torch_free: bool = False
    teaching: bool = False
    aliases: tuple[str, ...] = ()
    check: RefusalCheck = lambda spec: None
    parts: Callable[[RunSpec], int] = lambda spec: 1
    smoke: Callable[[RunSpec], RunSpec] = lambda spec: spec


@dataclass(frozen=True, kw_only=True)
class ModelEntry(CatalogEntry):
    """One entry of the model registry.

    `stems` are the values of `stem` it knows, `input_channels` None: any, `blocks` how many parts it can be
    cut into, `parameters` how many it has at 1,000 classes (tests compare both with the model itself).
    """

    parameters: int
    blocks: int = 1
    stems: tuple[str, ...] = ()
    input_channels: int | None = None


@dataclass(frozen=True, kw_only=True)
class DatasetEntry(CatalogEntry):
    """One entry of the data set registry.

    `files` is the target of its `tasks.task_registry.DatasetFiles`, None where it needs no files.
    `train_samples` is None where it depends on the files. `check` returns why a run cannot use it, or None.
    `teaching`: it is wrong on purpose.
    """

    options: type = NoOptions
    unit: str = "samples"
    channels: int = 3
    image_size: int | None = None
    train_samples: int | None = None
    evaluation_samples: int | None = None
    files: str | None = None
    teaching: bool = False
    check: RefusalCheck = lambda spec: None

    @property
    def needs_files(self) -> bool:
        """Whether it has to be downloaded, or generated, before a run."""
        return self.files is not None


@dataclass(frozen=True, kw_only=True)
class Catalog:
    """Everything that a sweep can name."""

    strategies: Mapping[str, StrategyEntry]
    models: Mapping[str, ModelEntry]
    datasets: Mapping[str, DatasetEntry]
