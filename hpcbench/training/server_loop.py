"""The run of a server rank: receives the commands of the training ranks and records windows of updates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hpcbench.runs.events import Updates
from hpcbench.strategies.server_channel import ENDING_KINDS, CommandInbox, CommandKind, ServerCommand
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import MakeOptimizer, World
from hpcbench.training.measurement import device_peak_bytes, resident_peak_bytes
from hpcbench.training.process_group import confirm_stop
from hpcbench.training.session import RankSession

WINDOW_KINDS = (CommandKind.WARM_UP, CommandKind.WINDOW)


def serve_until_end(
    session: RankSession,
    world: World,
    strategy: Strategy,
    make_optimizer: MakeOptimizer,
    environment: dict[str, Any],
) -> None:
    """Serve until every training rank has ended. Raises StopRequestedError where a signal stopped them."""
    session.record_start(environment, role="serve")
    session.seconds["startup"] = session.age_s()
    session.phase = "serve"
    commands = CommandStream(session, world, strategy)
    strategy.serve(commands, make_optimizer)
    if commands.interrupted:
        confirm_stop(world)
        session.raise_stop()
    peak = resident_peak_bytes() if world.device.type == "cpu" else 0
    session.record_finish(peak_memory_bytes=max(commands.peak_memory_bytes, peak))


@dataclass(frozen=True)
class OpenWindow:
    """A window under way; `command` began it."""

    command: ServerCommand
    began: float


@dataclass
class CommandStream:
    """The commands for a strategy, one after the other, until all training ranks have ended.

    It also records windows of the server's own wall clock, which begin with those of the training rank that
    is furthest ahead.
    """

    session: RankSession
    world: World
    strategy: Strategy
    interrupted: bool = False
    idle_s: float = 0.0
    peak_memory_bytes: int = 0
    open_window: OpenWindow | None = None
    finished_ranks: set[int] = field(default_factory=set)

    def __iter__(self) -> Iterator[ServerCommand]:
        """Yield commands; the time until the next one comes is the server's idle time."""
        ended, inbox = 0, CommandInbox(self.world)
        while ended < self.world.training_ranks:
            began = time.perf_counter()
            command = inbox.next()
            self.idle_s += time.perf_counter() - began
            if command.kind in ENDING_KINDS:
                ended += 1
                self.interrupted = self.interrupted or command.kind is CommandKind.INTERRUPT
            elif command.kind in WINDOW_KINDS:
                self.begin_window(command)
            else:
                yield command
            if command.kind is CommandKind.END_EPOCH:
                self.end_epoch(command)

    def begin_window(self, command: ServerCommand) -> None:
        """Begin a window unless another rank has begun it already."""
        if self.open_window is None or command.first_step > self.open_window.command.first_step:
            self.end_window()
            self.idle_s = 0.0
            self.open_window = OpenWindow(command, time.perf_counter())

    def end_epoch(self, command: ServerCommand) -> None:
        """End the epoch's last window when all training ranks have finished the epoch."""
        self.finished_ranks.add(command.worker)
        if len(self.finished_ranks) == self.world.training_ranks:
            self.end_window()
            self.finished_ranks = set()
            self.session.writer.sync()

    def end_window(self) -> None:
        """Record the window that is under way."""
        if self.open_window is None:
            return
        peak = device_peak_bytes(self.world.device)
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)
        wall_s = time.perf_counter() - self.open_window.began
        command, seconds = self.open_window.command, self.session.seconds
        seconds["train"] = seconds.get("train", 0.0) + wall_s
        self.session.record(
            Updates(
                epoch=command.epoch,
                first_step=command.first_step,
                counted=command.kind is CommandKind.WINDOW,
                wall_s=wall_s,
                idle_s=self.idle_s,
                peak_memory_bytes=peak,
                **self.strategy.measurements(),
            )
        )
        self.session.writer.flush()
        self.open_window = None
