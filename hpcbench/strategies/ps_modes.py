"""When a parameter server updates, and whom it lets wait: the three modes."""

from __future__ import annotations

import time

import torch.distributed as dist

from hpcbench.strategies.base import Precision, World
from hpcbench.strategies.commands import Command, Kind
from hpcbench.strategies.options import PsOptions
from hpcbench.strategies.ps_server import Server


class SyncServer(Server):
    """One update from the mean of all workers' gradients, summed in rank order: the same bits each time."""

    def __init__(self, world: World, precision: Precision, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.arrived: dict[int, Command] = {}
        self.arriving: dict[int, list[dist.Work]] = {}

    def step(self, command: Command) -> None:
        """Let the gradient come in while others are waited for; the last one brings the update."""
        self.arrived[command.worker] = command
        if command.kind is Kind.STEP:
            self.arriving[command.worker] = self.begin_receiving(command.worker, command.worker)
        if len(self.arrived) < len(self.workers):
            return
        together = list(self.arrived.values())
        assert len({each.kind for each in together}) == 1, "workers skip a step together or not at all"
        if command.kind is Kind.STEP:
            self.apply_all(command.lr)
            self.applied.updates += 1
            self.applied.samples += sum(each.samples for each in together)
            self.applied.staleness.append(0)
            self.applied.lead.append(0)
        else:
            for each in together:
                self.note_drop(each)
                self.reply(each)
        self.arrived, self.arriving = {}, {}

    def apply_all(self, lr: float) -> None:
        """Update piece by piece; a piece is sent while later ones are still coming in."""
        for number, slot in enumerate(self.slots):
            began = time.perf_counter()
            for worker in self.workers:
                self.arriving[worker][number].wait()
            received = time.perf_counter()
            total = self.gradient(0, slot)
            for worker in self.workers[1:]:
                total += self.gradient(worker, slot)
            if len(self.workers) > 1:
                total /= len(self.workers)
            slot.update(total, lr)
            for worker in self.workers:
                self.send(slot, worker)
            self.applied.push_s += received - began
            self.applied.update_s += time.perf_counter() - received


class AsyncServer(Server):
    """An update for each worker's gradient, in the order in which they come."""

    def __init__(self, world: World, precision: Precision, options: PsOptions) -> None:
        super().__init__(world, precision, options)
        self.version = 0  # counts updates
        self.pulled = dict.fromkeys(self.workers, 0)  # the version that each worker has
        self.clock: dict[int, float] = dict.fromkeys(
            self.workers, 0
        )  # steps in this epoch; resting: infinite
        self.waiting: set[int] = set()

    def may_go_on(self, worker: int) -> bool:
        """Say whether a worker may begin its next step."""
        return True

    def step(self, command: Command) -> None:
        """Update by one worker's gradient, piece by piece, and send it the pieces as they become new."""
        worker = command.worker
        staleness = self.version - self.pulled[worker]
        lead = self.lead(worker)
        self.clock[worker] += 1
        at_once = self.may_go_on(worker)
        if command.kind is Kind.STEP:
            self.apply_one(command, at_once)
            self.applied.updates += 1
            self.applied.samples += command.samples
            self.applied.workers.append(worker)
            self.applied.staleness.append(staleness)
            self.applied.lead.append(lead)
        else:
            self.note_drop(command)
            if at_once:
                self.reply(command)
        if at_once:
            self.pulled[worker] = self.version
        else:
            self.waiting.add(worker)
        self.release()

    def apply_one(self, command: Command, at_once: bool) -> None:
        """Update piece by piece."""
        works = self.begin_receiving(command.worker, 0)
        for slot, work in zip(self.slots, works, strict=True):
            began = time.perf_counter()
            work.wait()
            received = time.perf_counter()
            slot.update(self.gradient(0, slot), command.lr)
            if at_once:
                self.send(slot, command.worker)
            self.applied.push_s += received - began
            self.applied.update_s += time.perf_counter() - received
        self.version += 1

    def reply(self, command: Command) -> None:
        """Send all parameters, and know what that worker has now."""
        super().reply(command)
        self.pulled[command.worker] = self.version

    def lead(self, worker: int) -> int:
        """Return how many steps a worker is ahead of the slowest that has not finished its epoch."""
        return int(self.clock[worker] - min(self.clock.values()))

    def release(self) -> None:
        """Answer those that may go on now."""
        for worker in sorted(self.waiting):
            if self.may_go_on(worker):
                self.waiting.discard(worker)
                self.reply(Command(kind=Kind.PULL, worker=worker))

    def rest(self, command: Command) -> None:
        """Wait for this worker no longer; when all have finished their epoch, all begin a new one."""
        self.clock[command.worker] = float("inf")
        if all(clock == float("inf") for clock in self.clock.values()):
            self.clock = dict.fromkeys(self.workers, 0)
        self.release()


class BoundedServer(AsyncServer):
    """A worker that is too far ahead gets its answer when the slowest has caught up."""

    def may_go_on(self, worker: int) -> bool:
        """Say whether a worker is not too far ahead to begin its next step."""
        bound: int = self.options.max_staleness
        return self.lead(worker) <= bound
