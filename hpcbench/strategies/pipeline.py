"""Pipeline parallelism (GPipe and 1F1B) with torch.distributed.pipelining: each rank holds consecutive
layers.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe

from hpcbench.strategies.model_partition import ModelPart, blocks_of, measure_blocks, partition_evenly
from hpcbench.strategies.strategy_base import Strategy, set_mode
from hpcbench.strategies.world import MakeOptimizer, PrecisionPolicy
from hpcbench.tasks.batches import Batch, LossSums, measure_logits, sum_losses

PipelineSchedule = ScheduleGPipe | Schedule1F1B
SCHEDULES: dict[str, type[PipelineSchedule]] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


class StageModule(nn.Module):
    """A rank's part of the model, computed in the run's precision."""

    def __init__(self, part: ModelPart, precision: PrecisionPolicy) -> None:
        super().__init__()
        self.part = part
        self.precision = precision

    def forward(self, batch: Tensor) -> Tensor:
        """Send a micro-batch through this rank's layers."""
        with self.precision.autocast():
            output: Tensor = self.part(batch)
        return output.contiguous()  # a message is memory as it lies, and has to lie as the receiver expects


class Pipeline(Strategy):
    """Stage r of the model on rank r; the last one sees the loss. `model` is this rank's part."""

    model: ModelPart

    def measure_example(self, model: nn.Module, example: Batch) -> None:
        """Measure the blocks and cut where the stages cost the same, by what rank 0 has measured."""
        costs = measure_blocks(blocks_of(model), example.images, self.precision)
        seconds = torch.tensor(costs.seconds, dtype=torch.float64, device=self.world.device)
        dist.broadcast(seconds, src=0, group=self.world.trainers)
        self.cuts = partition_evenly(seconds.tolist(), self.world.size)
        # What goes into the first block, and what comes out of each: shape of a sample, and number format.
        self.links = [(tuple(example.images.shape[1:]), example.images.dtype)]
        self.links += zip(costs.shapes, costs.dtypes, strict=True)

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Keep this rank's layers, in the state that rank 0 has them in."""
        with torch.no_grad():
            for tensor in (*model.parameters(), *model.buffers()):
                dist.broadcast(tensor, src=0, group=self.world.trainers)
        self.make_optimizer = make_optimizer
        self.skeleton = copy.deepcopy(model).to("meta")
        self.keep_stage(model)

    def keep_stage(self, model: nn.Module) -> None:
        """Become this rank's stage of a model; the rest of it is not kept."""
        blocks = blocks_of(model)
        parts = [ModelPart([blocks[index] for index in indices]) for indices in self.cuts]
        self.layout = {
            name: (stage, value.shape, value.dtype)
            for stage, part in enumerate(parts)
            for name, value in part.state_dict().items()
        }
        super().prepare(parts[self.world.rank], self.make_optimizer)
        self.module = StageModule(self.model, self.precision)
        self.schedules: dict[int, PipelineSchedule] = {}
        self.sums: list[LossSums] = []

    def forward_backward(self, micro_batches: Sequence[Batch]) -> LossSums | None:
        """Send each part of the batch through the pipeline and back."""
        set_mode(self.model, training=True)
        self.samples = sum(len(batch.labels) for batch in micro_batches)
        self.sums = []
        for batch in micro_batches:
            first = (batch.images,) if self.is_first else ()
            last: dict[str, Any] = {"target": batch.labels, "losses": []} if self.is_last else {}
            self.schedule(len(batch.labels)).step(*first, **last)
        return sum_losses(self.sums) if self.is_last else None

    @property
    def is_first(self) -> bool:
        """Whether images come in here."""
        return self.world.rank == 0

    @property
    def is_last(self) -> bool:
        """Whether logits come out here."""
        return self.world.rank == self.world.size - 1

    def schedule(self, samples: int) -> PipelineSchedule:
        """Return what sends a batch of that size through the stages in micro-batches."""
        if samples not in self.schedules:
            count, own = self.options.micro_batches, self.cuts[self.world.rank]
            assert samples % count == 0, f"{samples} samples are not {count} equal micro-batches"
            # torch is told what will come: else it would find out with a batch of its own, which would leave
            # its traces in running statistics.
            stage = PipelineStage(
                self.module,
                self.world.rank,
                self.world.size,
                self.world.device,
                input_args=(self._link(own.start, samples // count),),
                output_args=(self._link(own.stop, samples // count),),
                group=self.world.trainers,
            )
            make = SCHEDULES[self.options.schedule]
            self.schedules[samples] = make(stage, count, loss_fn=self.loss, scale_grads=False)
        return self.schedules[samples]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return a micro-batch's part of the mean loss over the batch."""
        with self.precision.autocast():
            sums = measure_logits(logits, labels, label_smoothing=self.label_smoothing)
        self.sums.append(sums.detach())
        return self.precision.scaled(sums.loss_sum / self.samples)

    def _link(self, index: int, samples: int) -> Tensor:
        shape, dtype = self.links[index]
        return torch.empty((samples, *shape), dtype=dtype, device="meta", requires_grad=index > 0)

    @torch.no_grad()
    def evaluate(self, batch: Batch, mask: Tensor) -> LossSums | None:
        """Send a whole batch through the stages; while one works on it, those before go on with the next."""
        set_mode(self.model, training=False)
        images, rank = batch.images, self.world.rank
        if not self.is_first:
            shape, dtype = self.links[self.cuts[rank].start]
            images = torch.empty((len(batch.labels), *shape), dtype=dtype, device=self.world.device)
            dist.recv(images, src=rank - 1, group=self.world.trainers)
        output = self.module(images)
        if not self.is_last:
            dist.send(output, dst=rank + 1, group=self.world.trainers)
            return None
        with self.precision.autocast():
            return measure_logits(output, batch.labels, mask)

    def weights(self) -> dict[str, Tensor]:
        """Gather all stages' layers on every rank."""
        own = super().weights()
        weights = {}
        for name, (stage, shape, dtype) in self.layout.items():
            if stage == self.world.rank:
                value = own[name].contiguous()
            else:
                value = torch.empty(shape, dtype=dtype, device=self.world.device)
            dist.broadcast(value, src=stage, group=self.world.trainers)
            weights[name] = value
        return weights

    def state(self) -> dict[str, Any]:
        """Return this rank's stage, and where the model was cut."""
        return {**super().state(), "cuts": [(indices.start, indices.stop) for indices in self.cuts]}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take this rank's stage back, cut as it was: a new measurement may have come out differently."""
        self.cuts = [range(*bounds) for bounds in state["cuts"]]
        self.keep_stage(copy.deepcopy(self.skeleton).to_empty(device=self.world.device))
        super().load_state(state)
