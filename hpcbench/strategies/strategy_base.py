"""The interface of a strategy.

The base class is training on a single device (single_gpu); every other strategy overrides what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from hpcbench.strategies.world import MakeOptimizer, PrecisionPolicy, World
from hpcbench.tasks.batches import Batch, LossSums, Shard, measure_logits, sum_losses

if TYPE_CHECKING:
    from hpcbench.strategies.server_channel import ServerCommand


class Strategy:
    """Training on a single device, and the base of every other strategy.

    `model` is the module under its single-device names; `module` is what a batch is sent through: the same,
    or a wrapper around it. `is_synchronous` says that the training ranks wait for each other in every step:
    only then a window of steps begins and ends with a barrier.
    """

    is_synchronous = True
    skips_exchange = False  # leaves the exchange out, in a copy that is only timed
    label_smoothing = 0.0  # of the training loss; evaluation measures the plain one
    model: nn.Module
    module: nn.Module
    optimizer: Optimizer

    def __init__(self, world: World, precision: PrecisionPolicy, options: Any) -> None:
        self.world = world
        self.precision = precision
        self.options = options

    @property
    def emulated(self) -> bool:
        """Whether it runs without the devices that it is meant for."""
        return False

    def shard(self) -> Shard:
        """Return the part of each global batch that this rank sees."""
        return Shard(index=0, count=1)

    def measure_example(self, model: nn.Module, example: Batch) -> None:
        """Measure the model with a small batch, before `prepare`, to decide how to divide it."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Take the model, which is on this rank's device, and get ready for the first step."""
        self.model = self.module = model
        self.optimizer = make_optimizer(model.parameters())

    def begin_step(self, lr: float) -> None:
        """Take the learning rate of the step: for strategies whose exchange already updates."""

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
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
        return sum_losses(done)

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
        """Clear this step's gradient."""
        self.optimizer.zero_grad(set_to_none=True)

    def synchronize(self) -> None:
        """Bring the newest parameters everywhere and make buffers equal."""

    @torch.no_grad()
    def evaluate(self, batch: Batch, mask: Tensor) -> LossSums | None:
        """Sum loss and right answers over the samples of a padded batch that count; None: no loss here."""
        set_mode(self.model, training=False)
        with self.precision.autocast():
            return measure_logits(self.predict(batch.images), batch.labels, mask)

    def predict(self, images: Tensor) -> Tensor:
        """Return logits for an evaluation; past a wrapper that would exchange something here."""
        logits: Tensor = self.model(images)
        return logits

    def weights(self) -> dict[str, Tensor]:
        """Return the whole model under single-device names; call after synchronize."""
        return {name: value.detach() for name, value in self.model.state_dict().items()}

    def state(self) -> dict[str, Any]:
        """Return what this rank needs to resume; call after synchronize."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from what `state` returned on the same rank of an equal world; call after prepare."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def serve(self, commands: Iterable[ServerCommand], make_optimizer: MakeOptimizer) -> None:
        """Follow commands until they end; only on servers, for which `prepare` is not called."""
        raise NotImplementedError(f"{type(self).__name__} has no servers")

    def measurements(self) -> dict[str, Any]:
        """Return what the strategy has measured since the last call: fields of recorded events."""
        return {}


def set_mode(module: nn.Module, *, training: bool) -> None:
    """Switch a module between training and evaluation, where it is not there yet."""
    if module.training is not training:
        module.train(training)


class MultiDeviceStrategy(Strategy):
    """One process uses several devices. On a CPU, or with too few devices, it runs and is emulated."""

    @property
    def emulated(self) -> bool:
        """Whether the devices are not as many as they were meant to be."""
        devices = self.world.devices
        return self.world.device.type == "cpu" or len(set(devices)) < len(devices)


class ReplicatedStrategy(Strategy):
    """Every training rank holds the whole model and sees its own shard of each global batch.

    Running statistics are those of shard 0, as DistributedDataParallel keeps them.
    """

    def shard(self) -> Shard:
        """Each training rank has the shard of its number."""
        return Shard(index=self.world.rank, count=self.world.training_ranks)

    def broadcast_initial_state(self, model: nn.Module) -> None:
        """Make parameters and buffers equal to those of rank 0."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                self.broadcast(tensor)

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite a tensor with that of shard 0."""
        dist.broadcast(tensor, src=0, group=self.world.trainers)

    def synchronize(self) -> None:
        """Take the running statistics of shard 0; parameters are equal already."""
        for buffer in self.model.buffers():
            self.broadcast(buffer)
