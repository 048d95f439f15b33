"""Exposed communication time by ablation: the same steps with and without the exchange, on copies of the
trained state.
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

from hpcbench.runs.events import ExchangeAblation
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.strategies.world import MakeOptimizer
from hpcbench.tasks.batches import Batch
from hpcbench.training.loop import Training, tensor_checksum
from hpcbench.training.measurement import PhaseClock, clock_for
from hpcbench.training.precision import RunPrecision
from hpcbench.training.process_group import barrier
from hpcbench.training.step_plan import learning_rate

INPUT_BATCHES = 8  # the inputs of all steps, in turn
BLOCK_STEPS = 4  # of one copy, or a little more, before the other has its turn
MAX_STEPS_PER_EXCHANGE = 16  # an exchange that comes more seldom would take too many steps to be seen
MIN_BLOCKS, MAX_BLOCKS = 3, 8
BUDGET_S = 2.0


@dataclass(frozen=True)
class TimedCopy:
    """A copy of the training state that does steps of its own."""

    strategy: Strategy
    clock: PhaseClock

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
    make_strategy: Callable[[RunPrecision], Strategy],
    make_optimizer: MakeOptimizer,
    example: Batch,
) -> None:
    """Record steps with and without the exchange; nothing where one can't do without it or seldom has it."""
    entry = STRATEGIES[training.session.spec.strategy]
    if training.world.training_ranks == 1 or not entry.exchange_can_be_left_out:
        return
    if _steps_per_exchange(training) > MAX_STEPS_PER_EXCHANGE:
        return
    began = time.perf_counter()
    with training.session.timed_part("check"):
        before = _state_checksum(training)
        with torch.random.fork_rng(devices=_cuda_devices(training)):
            copies = [
                _timed_copy(training, make_strategy, make_optimizer, example, skips_exchange=skips_exchange)
                for skips_exchange in (False, True)
            ]
            with_exchange, without_exchange = _time_paired_blocks(training, copies)
        assert _state_checksum(training) == before, "steps on a copy leave the trained state alone"
    training.session.record(
        ExchangeAblation(
            epoch=training.plan.epochs,
            with_exchange_s=with_exchange,
            without_exchange_s=without_exchange,
            wall_s=time.perf_counter() - began,
        )
    )
    training.session.writer.flush()


def _time_paired_blocks(training: Training, copies: Sequence[TimedCopy]) -> tuple[list[float], list[float]]:
    """Let both copies do blocks of steps, each first in every second pair; the first pair warms up."""
    epoch = training.plan.epochs - 1
    steps = [step % training.plan.steps_per_epoch for step in training.plan.steps_of(epoch)][:INPUT_BATCHES]
    batches = list(training.loader.train(epoch, steps))
    inputs = cycle(batches)
    lr = learning_rate(training.session.spec, training.plan, training.plan.total_steps - 1)
    interval = _steps_per_exchange(training)
    block_steps = interval * math.ceil(BLOCK_STEPS / interval)
    times: tuple[list[float], list[float]] = ([], [])
    blocks = 1
    pair = 0
    while pair <= blocks:
        block = list(islice(inputs, block_steps))
        for index in (0, 1) if pair % 2 else (1, 0):
            step_s = copies[index].steps(block, lr)
            if pair:
                times[index].extend(
                    fmean(step_s[start : start + interval]) for start in range(0, block_steps, interval)
                )
            elif index == 0:
                blocks = _agree_on_blocks(training, sum(step_s))
        pair += 1
    return times


def _agree_on_blocks(training: Training, block_s: float) -> int:
    """Agree on how many pairs of blocks the budget has room for."""
    longest = torch.tensor(block_s, device=training.world.device)
    torch.distributed.all_reduce(longest, torch.distributed.ReduceOp.MAX, group=training.world.trainers)
    return max(MIN_BLOCKS, min(MAX_BLOCKS, int(BUDGET_S / 2 / max(float(longest), 1e-9))))


def _timed_copy(
    training: Training,
    make_strategy: Callable[[RunPrecision], Strategy],
    make_optimizer: MakeOptimizer,
    example: Batch,
    *,
    skips_exchange: bool,
) -> TimedCopy:
    """Return a copy of the model under a strategy of its own, with the scale of the loss as it is now."""
    spec, world = training.session.spec, training.world
    arithmetic = RunPrecision(spec.precision, world.device)
    arithmetic.load_state(training.arithmetic.state())
    strategy = make_strategy(arithmetic)
    strategy.skips_exchange = skips_exchange
    model = copy.deepcopy(training.strategy.model)
    strategy.measure_example(model, example)
    if spec.compile:
        model.compile()
    strategy.prepare(model, make_optimizer)
    return TimedCopy(strategy, clock_for(world.device))


def _steps_per_exchange(training: Training) -> int:
    spec = training.session.spec
    return STRATEGIES[spec.strategy].steps_per_exchange(spec.strategy_options)


def _state_checksum(training: Training) -> str:
    weights = training.strategy.weights()
    return tensor_checksum(weights, weights)


def _cuda_devices(training: Training) -> list[torch.device]:
    return [training.world.device] if training.world.device.type == "cuda" else []
