"""Exposed communication by ablation: the same steps with the exchange and without it (MEASURING rule 7).

Where communication overlaps backward, no timer around it tells how much longer the step takes. So two copies
of the trained state do the same steps in turn, one exchanging and one not; the difference of their step times
is what the exchange costs. The state itself takes no part and stays as it is, bit for bit.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from statistics import fmean

import torch

from hpcbench.measure.clock import Clock, clock_for
from hpcbench.records.events import ExchangeAblation
from hpcbench.strategies.base import Batch, MakeOptimizer, Strategy
from hpcbench.training.checksum import checksum
from hpcbench.training.loop import Training
from hpcbench.training.precision import Arithmetic
from hpcbench.training.schedule import learning_rate
from hpcbench.training.world import barrier

BATCHES = 8  # the inputs of all steps, in turn
BLOCK_STEPS = 4  # of one copy, or a little more, before the other has its turn
MOST_STEPS_PER_EXCHANGE = 16  # an exchange that comes more seldom would take too many steps to be seen
LEAST_BLOCKS, MOST_BLOCKS = 3, 8
BUDGET_S = 2.0


@dataclass(frozen=True)
class Copy:
    """A copy of the training state that does steps of its own."""

    strategy: Strategy
    clock: Clock

    def steps(self, batches: Sequence[list[Batch]], lr: float) -> list[float]:
        """Train on each batch; return the seconds of each step."""
        barrier(self.strategy.world)
        self.clock.begin()
        for batch in batches:
            self.clock.enter("data_wait")  # where a step begins; the batch is there
            self.strategy.begin_step(lr)
            self.strategy.forward_backward(batch)
            self.strategy.exchange()
            self.strategy.update(lr)
        self.clock.enter("other")
        return self.clock.end().step_s


def measure_exchange(
    training: Training,
    make_strategy: Callable[[Arithmetic], Strategy],
    make_optimizer: MakeOptimizer,
    example: Batch,
) -> None:
    """Record steps with and without the exchange; nothing where one can't do without it or seldom has it."""
    strategy = training.strategy
    if training.world.training_ranks == 1 or not strategy.exchange_can_be_left_out:
        return
    if strategy.steps_per_exchange > MOST_STEPS_PER_EXCHANGE:
        return
    began = time.perf_counter()
    with training.session.part("check"):
        before = _fingerprint(training)
        with torch.random.fork_rng(devices=_devices(training)):
            copies = [
                _copy(training, make_strategy, make_optimizer, example, silent=silent)
                for silent in (False, True)
            ]
            with_exchange, without_exchange = _paired(training, copies)
        assert _fingerprint(training) == before, "steps on a copy leave the trained state alone"
    training.session.record(
        ExchangeAblation(
            epoch=training.plan.epochs,
            with_exchange_s=with_exchange,
            without_exchange_s=without_exchange,
            wall_s=time.perf_counter() - began,
        )
    )
    training.session.writer.flush()


def _paired(training: Training, copies: Sequence[Copy]) -> tuple[list[float], list[float]]:
    """Let both copies do blocks of steps, each first in every second pair; the first pair warms up."""
    epoch = training.plan.epochs - 1
    wanted = [step % training.plan.steps_per_epoch for step in training.plan.steps_of(epoch)][:BATCHES]
    batches = list(training.loader.train(epoch, wanted))
    inputs = cycle(batches)
    lr = learning_rate(training.session.spec, training.plan, training.plan.total_steps - 1)
    every = training.strategy.steps_per_exchange
    block_steps = every * math.ceil(BLOCK_STEPS / every)
    times: tuple[list[float], list[float]] = ([], [])
    blocks = 1
    pair = 0
    while pair <= blocks:
        block = list(islice(inputs, block_steps))
        for index in (0, 1) if pair % 2 else (1, 0):
            seen = copies[index].steps(block, lr)
            if pair:
                times[index].extend(fmean(seen[at : at + every]) for at in range(0, block_steps, every))
            elif index == 0:
                blocks = _blocks(training, sum(seen))
        pair += 1
    return times


def _blocks(training: Training, block_s: float) -> int:
    """Agree on how many pairs of blocks the budget has room for."""
    longest = torch.tensor(block_s, device=training.world.device)
    torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX, group=training.world.trainers)
    return max(LEAST_BLOCKS, min(MOST_BLOCKS, int(BUDGET_S / 2 / max(float(longest), 1e-9))))


def _copy(
    training: Training,
    make_strategy: Callable[[Arithmetic], Strategy],
    make_optimizer: MakeOptimizer,
    example: Batch,
    *,
    silent: bool,
) -> Copy:
    """Return a copy of the model under a strategy of its own, with the scale of the loss as it is now."""
    spec, world = training.session.spec, training.world
    arithmetic = Arithmetic(spec.precision, world.device)
    arithmetic.load_state(training.arithmetic.state())
    strategy = make_strategy(arithmetic)
    strategy.silent = silent
    model = copy.deepcopy(training.strategy.model)
    strategy.rehearse(model, example)
    if spec.compile:
        model.compile()
    strategy.prepare(model, make_optimizer)
    return Copy(strategy, clock_for(world.device))


def _fingerprint(training: Training) -> str:
    weights = training.strategy.weights()
    return checksum(weights, weights)


def _devices(training: Training) -> list[torch.device]:
    return [training.world.device] if training.world.device.type == "cuda" else []
