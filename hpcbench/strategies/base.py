"""What a strategy is. The base class is single-device training; a strategy's file reads as the difference.

Strategies know nothing of logging, files, clocks or launching. What they need from outside they are given:
the world they communicate in, the precision they compute in, their options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

if TYPE_CHECKING:
    from hpcbench.strategies.commands import Command

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Seat:
    """Whether this rank trains, and which of how many shards of each global batch is its own."""

    trains: bool
    shard: int
    shards: int


@dataclass(frozen=True)
class World:
    """The ranks of a run. `trainers` is the group of those that train; None where nothing is communicated.

    Training ranks are numbered 0 to `training_ranks` - 1, servers come after them. `device` is the one that
    batches are on; a strategy that uses several in one process finds the rest in `more_devices`. `control` is
    the group in which servers are told what to do; None where there are none.
    """

    rank: int
    size: int
    training_ranks: int
    device: torch.device
    trainers: dist.ProcessGroup | None = None
    more_devices: tuple[torch.device, ...] = ()
    control: dist.ProcessGroup | None = None

    @property
    def devices(self) -> tuple[torch.device, ...]:
        """All devices of this process. One may stand there several times, where the others are missing."""
        return (self.device, *self.more_devices)


@dataclass(frozen=True)
class Batch:
    """`images` has the shape [samples, channels, height, width], `labels` [samples] (int64)."""

    images: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Sums:
    """Sums over samples, kept on the device: cross entropy (float), right answers (int64), samples."""

    loss_sum: Tensor
    correct: Tensor
    samples: int

    def __add__(self, other: Sums) -> Sums:
        return Sums(
            self.loss_sum + other.loss_sum, self.correct + other.correct, self.samples + other.samples
        )

    def detach(self) -> Sums:
        """Return the sums without what would be needed to go backward from them."""
        return Sums(self.loss_sum.detach(), self.correct, self.samples)


def add_up(parts: Sequence[Sums]) -> Sums:
    """Return the sums over all parts, of which there is at least one."""
    total = parts[0]
    for sums in parts[1:]:
        total = total + sums
    return total


class Precision(Protocol):
    """How a strategy computes: autocast, and scaling of the loss where gradients may underflow."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss."""

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what to back-propagate from: the loss, scaled where the precision asks for it."""

    def step(self, optimizer: Optimizer, group: dist.ProcessGroup | None) -> None:
        """Update, unless a gradient of any rank in the group is not finite: then all of them skip."""


def measure_logits(
    logits: Tensor, labels: Tensor, mask: Tensor | None = None, *, label_smoothing: float = 0.0
) -> Sums:
    """Sum loss and right answers; `mask` [samples] (bool) leaves out what only pads the batch."""
    losses = cross_entropy(logits, labels, reduction="none", label_smoothing=label_smoothing)
    right = logits.detach().argmax(dim=1) == labels
    if mask is None:
        return Sums(losses.sum(), right.sum(), len(labels))
    return Sums((losses * mask).sum(), (right & mask).sum(), int(mask.sum()))


class Strategy:
    """Training on a single device, and what every other strategy starts from.

    `model` is the module under its single-device names; `module` is what a batch is sent through: the same,
    or a wrapper around it. `lockstep` says that the training ranks keep step with each other anyway: only
    then may a window of steps begin and end with all of them waiting for the last.
    """

    lockstep = True
    # Whether a step can be done without the exchange; `silent`: it is, for a copy that is only timed.
    exchange_can_be_left_out = False
    steps_per_exchange = 1
    silent = False
    label_smoothing = 0.0  # of the training loss; evaluation measures the plain one
    model: nn.Module
    module: nn.Module
    optimizer: Optimizer

    def __init__(self, world: World, precision: Precision, options: Any) -> None:
        self.world = world
        self.precision = precision
        self.options = options

    @property
    def emulated(self) -> bool:
        """Whether it does what it is for, but not on the devices that it is for."""
        return False

    def seat(self) -> Seat:
        """Say whether this rank trains, and on which shard."""
        return Seat(trains=True, shard=0, shards=1)

    def rehearse(self, model: nn.Module, example: Batch) -> None:
        """See the model and a small batch such as will come, before `prepare`: to measure and decide."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Take the model, which is on this rank's device, and get ready for the first step."""
        self.model = self.module = model
        self.optimizer = make_optimizer(model.parameters())

    def begin_step(self, lr: float) -> None:
        """Hear the step's learning rate early: for strategies whose exchange already updates."""

    def forward_backward(self, micro_batches: Sequence[Batch]) -> Sums | None:
        """Leave in `grad` the gradient of the mean loss over this rank's batch; None: no loss here."""
        set_mode(self.model, training=True)
        samples = sum(len(batch.labels) for batch in micro_batches)
        done = []
        for index, batch in enumerate(micro_batches):
            with self.accumulating(last=index == len(micro_batches) - 1):
                with self.precision.autocast():
                    logits = self.module(batch.images)
                    sums = measure_logits(logits, batch.labels, label_smoothing=self.label_smoothing)
                self.precision.scaled(sums.loss_sum / samples).backward()
            done.append(sums.detach())
        return add_up(done)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Return the context for a micro-batch; before the last one, nothing needs to be exchanged."""
        return nullcontext()

    def exchange(self) -> None:
        """Communicate what has to be communicated between backward and update."""

    def update(self, lr: float) -> None:
        """Change the parameters by this step's gradient and clear it."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.precision.step(self.optimizer, self.world.trainers)
        self.clear_gradients()

    def clear_gradients(self) -> None:
        """Forget this step's gradient."""
        self.optimizer.zero_grad(set_to_none=True)

    def settle(self) -> None:
        """Bring the newest parameters everywhere and make buffers equal."""

    @torch.no_grad()
    def evaluate(self, batch: Batch, mask: Tensor) -> Sums | None:
        """Sum loss and right answers over the samples of a padded batch that count; None: no loss here."""
        set_mode(self.model, training=False)
        with self.precision.autocast():
            return measure_logits(self.predict(batch.images), batch.labels, mask)

    def predict(self, images: Tensor) -> Tensor:
        """Return logits for an evaluation; past a wrapper that would exchange something here."""
        logits: Tensor = self.model(images)
        return logits

    def weights(self) -> dict[str, Tensor]:
        """Return the whole model, parameters and buffers, under single-device names; call after settle."""
        return {name: value.detach() for name, value in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return what this rank needs to go on later; call after settle."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned on the same rank of an equal world; call after prepare."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def serve(self, commands: Iterable[Command], make_optimizer: MakeOptimizer) -> None:
        """Follow commands until they end; only for seats that do not train, which are not prepared."""
        raise NotImplementedError(f"{type(self).__name__} has no servers")

    def figures(self) -> dict[str, Any]:
        """Return what only the strategy can measure, since it was last asked: fields of recorded events."""
        return {}


def set_mode(module: nn.Module, *, training: bool) -> None:
    """Switch a module between training and evaluation, where it is not there yet."""
    if module.training is not training:
        module.train(training)


class SeveralDevices(Strategy):
    """One process uses several devices. On a CPU, or with too few devices, it runs and is emulated."""

    @property
    def emulated(self) -> bool:
        """Whether the devices are not as many as they were meant to be."""
        devices = self.world.devices
        return self.world.device.type == "cpu" or len(set(devices)) < len(devices)


class Replicated(Strategy):
    """Every training rank holds the whole model and sees its own shard of each global batch.

    Running statistics are those of shard 0, as DistributedDataParallel keeps them.
    """

    def seat(self) -> Seat:
        """Each training rank takes the shard of its number."""
        return Seat(trains=True, shard=self.world.rank, shards=self.world.training_ranks)

    def broadcast_initial_state(self, model: nn.Module) -> None:
        """Make parameters and buffers equal to those of rank 0."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                self.broadcast(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor with that of shard 0."""
        dist.broadcast(tensor, src=0, group=self.world.trainers)

    def settle(self) -> None:
        """Take the running statistics of shard 0; parameters are equal already."""
        for buffer in self.model.buffers():
            self.broadcast(buffer)
