"""What a strategy is. The base class is single-device training; a strategy's file reads as the difference.

Strategies know nothing of logging, files, clocks or launching. What they need from outside they are given:
the world they communicate in, the precision they compute in, their options.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

MakeOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]


@dataclass(frozen=True)
class Seat:
    """Whether this rank trains, and which of how many shards of each global batch is its own."""

    trains: bool
    shard: int
    shards: int


@dataclass(frozen=True)
class World:
    """The ranks of a run. `trainers` is the group of those that train; None in a run of one process.

    Training ranks are numbered 0 to `training_ranks` - 1, servers come after them.
    """

    rank: int
    size: int
    training_ranks: int
    device: torch.device
    trainers: dist.ProcessGroup | None = None


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


class Precision(Protocol):
    """How a strategy computes: autocast, and scaling of the loss where gradients may underflow."""

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss."""

    def backward(self, loss: Tensor) -> None:
        """Back-propagate, scaled where the precision asks for it."""

    def step(self, optimizer: Optimizer, group: dist.ProcessGroup | None) -> None:
        """Update, unless a gradient of any rank in the group is not finite: then all of them skip."""


def measure_logits(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Sums:
    """Sum loss and right answers; `mask` [samples] (bool) leaves out what only pads the batch."""
    losses = cross_entropy(logits, labels, reduction="none")
    right = logits.detach().argmax(dim=1) == labels
    if mask is None:
        return Sums(losses.sum(), right.sum(), len(labels))
    return Sums((losses * mask).sum(), (right & mask).sum(), int(mask.sum()))


class Strategy:
    """Training on a single device, and what every other strategy starts from.

    `model` is the module under its single-device names; `module` is what a batch is sent through: the same,
    or a wrapper around it.
    """

    model: nn.Module
    module: nn.Module
    optimizer: Optimizer

    def __init__(self, world: World, precision: Precision, options: Any) -> None:
        self.world = world
        self.precision = precision
        self.options = options

    def seat(self) -> Seat:
        """Say whether this rank trains, and on which shard."""
        return Seat(trains=True, shard=0, shards=1)

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Take the model, which is on this rank's device, and get ready for the first step."""
        self.model = self.module = model
        self.optimizer = make_optimizer(model.parameters())

    def forward_backward(self, micro_batches: Sequence[Batch]) -> Sums | None:
        """Leave in `grad` the gradient of the mean loss over this rank's batch; None: no loss here."""
        _set_mode(self.module, training=True)
        samples = sum(len(batch.labels) for batch in micro_batches)
        done = []
        for index, batch in enumerate(micro_batches):
            with self.accumulating(last=index == len(micro_batches) - 1):
                with self.precision.autocast():
                    sums = measure_logits(self.module(batch.images), batch.labels)
                self.precision.backward(sums.loss_sum / samples)
            done.append(Sums(sums.loss_sum.detach(), sums.correct, sums.samples))
        total = done[0]
        for sums in done[1:]:
            total = total + sums
        return total

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
        _set_mode(self.model, training=False)
        with self.precision.autocast():
            return measure_logits(self.model(batch.images), batch.labels, mask)

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


def _set_mode(module: nn.Module, *, training: bool) -> None:
    if module.training is not training:
        module.train(training)


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
