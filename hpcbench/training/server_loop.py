"""The run of a server rank: receives the commands of the training ranks and records windows of updates."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from hpcbench.runs.events import RunFinished, RunStarted, Updates
from hpcbench.strategies.server_channel import ENDING_KINDS, CommandInbox, CommandKind, ServerCommand
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import MakeOptimizer, World
from hpcbench.training.measurement import device_peak_bytes, resident_peak_bytes
from hpcbench.training.process_group import confirm_stop
from hpcbench.training.session import RankSession, StopRequestedError

WINDOW_KINDS = (CommandKind.WARM_UP, CommandKind.WINDOW)


def serve_until_end(
    session: RankSession,
    world: World,
    strategy: Strategy,
    make_optimizer: MakeOptimizer,
    environment: dict[str, Any],
) -> None:
    """Serve until every training rank has ended. Raises StopRequestedError where they were told to stop."""
    session.record(
        RunStarted(
            spec=session.spec.to_json(),
            declared=session.declared,
            environment=environment,
            role="serve",
            processes=session.placement.processes,
            process_start_ns=session.placement.process_start_ns,
            warnings=session.placement.warnings,
        )
    )
    session.writer.flush()
    session.seconds["startup"] = session.age_s()
    session.phase = "serve"
    orders = CommandStream(session, world, strategy)
    strategy.serve(orders, make_optimizer)
    if orders.interrupted:
        confirm_stop(world)
        raise StopRequestedError(session.stop_signal.name if session.stop_signal else "on a peer")
    session.record(_server_finished(session, orders))
    session.writer.sync()


@dataclass(frozen=True)
class OpenWindow:
    """A window under way; `command` began it."""

    command: ServerCommand
    began: float


@dataclass
class CommandStream:
    """The commands for a strategy, one after the other, until all training ranks have ended.

    What only concerns the record is kept here: windows of the server's own wall clock, which begin with those
    of the training rank that is furthest.
    """

    session: RankSession
    world: World
    strategy: Strategy
    interrupted: bool = False
    idle_s: float = 0.0
    peak_memory_bytes: int = 0
    opened: OpenWindow | None = None
    resting: set[int] = field(default_factory=set)

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
            if command.kind is CommandKind.REST:
                self.note_rest(command)

    def begin_window(self, command: ServerCommand) -> None:
        """Begin a window unless another rank has begun it already."""
        if self.opened is None or command.first_step > self.opened.command.first_step:
            self.end_window()
            self.idle_s = 0.0
            self.opened = OpenWindow(command, time.perf_counter())

    def note_rest(self, command: ServerCommand) -> None:
        """End the epoch's last window when all training ranks have finished the epoch."""
        self.resting.add(command.worker)
        if len(self.resting) == self.world.training_ranks:
            self.end_window()
            self.resting = set()
            self.session.writer.sync()

    def end_window(self) -> None:
        """Record the window that is under way."""
        if self.opened is None:
            return
        peak = device_peak_bytes(self.world.device)
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)
        wall_s = time.perf_counter() - self.opened.began
        command, seconds = self.opened.command, self.session.seconds
        seconds["train"] = seconds.get("train", 0.0) + wall_s
        self.session.record(
            Updates(
                epoch=command.epoch,
                first_step=command.first_step,
                counted=command.kind is CommandKind.WINDOW,
                wall_s=wall_s,
                idle_s=self.idle_s,
                peak_memory_bytes=peak,
                **self.strategy.figures(),
            )
        )
        self.session.writer.flush()
        self.opened = None


def _server_finished(session: RankSession, orders: CommandStream) -> RunFinished:
    wall_s = session.age_s()
    startup_s, train_s = session.seconds["startup"], session.seconds.get("train", 0.0)
    return RunFinished(
        wall_s=wall_s,
        startup_s=startup_s,
        train_s=train_s,
        evaluation_s=0.0,
        check_s=0.0,
        checkpoint_s=0.0,
        other_s=wall_s - startup_s - train_s,
        steps=0,
        samples=0,
        peak_memory_bytes=max(orders.peak_memory_bytes, resident_peak_bytes())
        if orders.world.device.type == "cpu"
        else orders.peak_memory_bytes,
    )
