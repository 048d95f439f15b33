"""The events of a run: frozen dataclasses, each written as one flat JSON object on a line of a record
file.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar

SCHEMA = 1
HEADER = ("event", "schema", "run_id", "attempt", "rank", "time_ns")
# The phases of a step, which partition its time; `Steps` has a sum of each.
PHASES = ("data_wait", "forward_backward", "exchange", "update", "other")
# Warnings of `RunStarted`.
OVERSUBSCRIBED = "cpu-oversubscribed"
SHARED_MACHINE = "shared-machine"


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something that happened in a run. The class name in snake case is the `event` of its line."""

    kind: ClassVar[str] = "event"

    def __init_subclass__(cls) -> None:
        cls.kind = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()


@dataclass(frozen=True, kw_only=True)
class RunStarted(Event):
    """A process has joined its run: what it has to do, and where it runs.

    `spec` is the effective run, `declared` the one of the sweep file where `--smoke` scaled it down.
    `process_start_ns` is when the supervisor started the process (Unix time).
    """

    spec: dict[str, Any]
    declared: dict[str, Any] | None = None
    environment: dict[str, Any]
    role: str = "train"  # or "serve"
    processes: int = 1
    process_start_ns: int
    parameters: int | None = None
    parameter_bytes: int | None = None
    steps_per_epoch: int | None = None
    total_steps: int | None = None
    train_samples: int | None = None
    evaluation_samples: int | None = None
    emulated: bool = False  # ran, but not on the devices that the strategy is for
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Steps(Event):
    """A window of consecutive steps between two barriers of the training ranks, seen by one rank.

    The five phases partition `wall_s`. `counted` is false while warming up. Lists have one entry a step;
    `loss_sum` and `correct` are sums over this rank's samples of the step, and None on ranks that see no
    loss; a loss that was not finite is None in the list and counted in `non_finite`.
    """

    epoch: int
    first_step: int  # counts over the whole run, from 0
    steps: int
    counted: bool
    samples: int  # consumed by this rank in the window
    wall_s: float
    data_wait_s: float
    forward_backward_s: float
    exchange_s: float
    update_s: float
    other_s: float
    step_s: list[float]
    loss_sum: list[float | None] | None = None
    correct: list[int] | None = None
    loss_samples: int | None = None  # samples behind each entry of loss_sum
    non_finite: int = 0
    skipped_updates: int = 0
    lr: float
    peak_memory_bytes: int | None = None  # of this rank: device memory, or resident set on a CPU
    push_s: float | None = None  # parameter server: inside exchange_s, until all gradients were out ...
    pull_s: float | None = None  # ... and from there until all parameters were in


@dataclass(frozen=True, kw_only=True)
class Updates(Event):
    """What a server has applied in a window of its own wall clock, while workers trained.

    A window begins when the first training rank begins one, and lasts until the first begins the next or all
    have finished their epoch: the windows of an epoch leave nothing out, and each update is in one of them.
    The lists have one entry an update. Throughput of an asynchronous run is `samples` over `wall_s`.
    """

    epoch: int
    first_step: int  # of the training rank that began the window
    counted: bool
    wall_s: float
    updates: int
    samples: int  # behind the gradients that were applied
    dropped: int = 0  # gradients that were not applied, because they were not finite
    dropped_samples: int = 0
    workers: list[int] = field(default_factory=list)  # whose gradient it was; empty: that of all of them
    staleness: list[int] = field(default_factory=list)  # updates by others since that worker's last pull
    lead: list[int] = field(default_factory=list)  # steps that it had done more than the slowest
    idle_s: float  # nothing to do
    push_s: float  # waiting for gradients to come in
    update_s: float  # adding them up and updating
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ExchangeAblation(Event):
    """Steps with and without the exchange, in turn, on a copy of the state (docs/methodology.md, M7)."""

    epoch: int
    with_exchange_s: list[float]  # one entry a step of this rank; with local steps, the mean of a round
    without_exchange_s: list[float]
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class Telemetry(Event):
    """What the supervisor saw of its node, once a second; the lists have one entry a reading.

    Lists of devices are indexed [reading][device], in the order of the job's devices.
    """

    host: str
    read_ns: list[int]  # Unix time
    cpu_percent: list[float]  # of all cores
    load: list[float]  # one-minute average
    cpu_mhz: list[float | None]
    memory_used_bytes: list[int]
    other_cpu_cores: list[float]  # cores that processes outside the job kept busy
    device_percent: list[list[float]] | None = None  # utilisation
    device_mhz: list[list[int]] | None = None
    device_watts: list[list[float]] | None = None
    device_celsius: list[list[int]] | None = None
    device_memory_used_bytes: list[list[int]] | None = None
    device_throttle: list[list[str]] | None = None  # reasons in NVML's words, joined by "|"; empty: none
    device_pcie_bytes_per_s: list[list[float]] | None = None
    device_other_processes: list[int] | None = None
    reading_s: float  # processor time that the readings of this line took


@dataclass(frozen=True, kw_only=True)
class Evaluation(Event):
    """This rank's share of an evaluation after `epoch` epochs; summed over ranks each sample counts once."""

    epoch: int
    wall_s: float
    samples: int
    loss_sum: float | None
    correct: int | None


@dataclass(frozen=True, kw_only=True)
class Epoch(Event):
    """An epoch has ended on this rank. `train_s` is the sum of its windows' wall time, warm-up included."""

    epoch: int  # counts from 1
    steps: int
    samples: int
    train_s: float
    evaluation_s: float
    check_s: float
    checkpoint_s: float
    other_s: float
    wall_s: float
    peak_memory_bytes: int | None = None
    replaced_samples: int = 0  # of this rank, corrupt, with others in their place


@dataclass(frozen=True, kw_only=True)
class Check(Event):
    """Checksums of the whole model as this rank sees it, taken outside the timed code."""

    when: str  # "start", "epoch", "end"
    epoch: int
    weights_checksum: str
    buffers_checksum: str
    wall_s: float


@dataclass(frozen=True, kw_only=True)
class Checkpoint(Event):
    """The state after `epoch` epochs is on disk."""

    epoch: int
    wall_s: float
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Interrupted(Event):
    """The run was asked to stop and did."""

    reason: str
    signal: str | None = None


@dataclass(frozen=True, kw_only=True)
class Resumed(Event):
    """The run goes on from the checkpoint that an earlier attempt left after `epoch` epochs."""

    epoch: int
    from_attempt: int


@dataclass(frozen=True, kw_only=True)
class RunFailed(Event):
    """The run cannot go on. `limit` is "memory" where running out of it is the result of the run.

    `asked_bytes` is what was asked for then.

    Written by the rank that failed, or, where that could not speak any more, by its supervisor
    (`failed_rank`, `exit_code` or `signal`, `last_lines` of its log).
    """

    reason: str
    phase: str | None = None
    exception: str | None = None
    limit: str | None = None
    asked_bytes: int | None = None
    failed_rank: int | None = None
    exit_code: int | None = None
    signal: str | None = None
    last_lines: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class RunFinished(Event):
    """This rank has done all of its work. The named times partition `wall_s`, process start to here."""

    wall_s: float
    startup_s: float
    train_s: float
    evaluation_s: float
    check_s: float
    checkpoint_s: float
    other_s: float
    steps: int
    samples: int
    peak_memory_bytes: int | None = None


EVENTS: dict[str, type[Event]] = {
    cls.kind: cls
    for cls in (
        RunStarted, Steps, Updates, ExchangeAblation, Telemetry, Evaluation, Epoch, Check, Checkpoint,
        Interrupted, Resumed, RunFailed, RunFinished,
    )
}  # fmt: skip
