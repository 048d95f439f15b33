"""What every synchronous strategy has to arrive at, written down without any of hpcbench's strategies."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tests.parity.cases import (
    MOMENTUM,
    WEIGHT_DECAY,
    Shape,
    build_model,
    evaluation_batches,
    learning_rate,
    shard_batches,
)


@dataclass(frozen=True)
class Expected:
    """The weights after the last step; loss, right answers and samples of an evaluation half-way."""

    weights: dict[str, Tensor]
    evaluation: Tensor


def train_reference(shape: Shape) -> Expected:
    """Train in one process. The batch is split as the ranks split it, for batch normalisation's sake.

    The gradient is the mean over the whole global batch; running statistics are those of shard 0.
    """
    model = build_model(shape, seed=0)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    evaluation = torch.zeros(3, dtype=torch.float64)
    for step in range(shape.steps):
        if step == shape.steps // 2:
            evaluation = evaluate(model, shape)
        model.train()
        optimizer.zero_grad()
        kept: dict[str, Tensor] = {}
        for shard, micro_batches in enumerate(shard_batches(shape, step)):
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            for batch in micro_batches:
                loss = cross_entropy(model(batch.images), batch.labels, reduction="sum")
                (loss / (shape.batch * shape.shards)).backward()
            if shard == 0:
                kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
    return Expected(copy.deepcopy(model.state_dict()), evaluation)


@torch.no_grad()
def evaluate(model: nn.Module, shape: Shape) -> Tensor:
    """Sum loss, right answers and samples over what is not padding."""
    model.eval()
    total = torch.zeros(3, dtype=torch.float64)
    for batch, mask in evaluation_batches(shape):
        logits, labels = model(batch.images[mask]), batch.labels[mask]
        loss = cross_entropy(logits, labels, reduction="sum")
        right = (logits.argmax(dim=1) == labels).sum()
        total += torch.stack([loss.double(), right.double(), mask.sum().double()])
    return total
