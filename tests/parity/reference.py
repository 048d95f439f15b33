"""What every synchronous strategy has to arrive at, written down without any of hpcbench's strategies."""

from __future__ import annotations

import copy

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from tests.parity.cases import MOMENTUM, WEIGHT_DECAY, Case, build_model, learning_rate, shard_batches


def reference_weights(case: Case) -> dict[str, Tensor]:
    """Train in one process. The batch is split as the ranks split it, for batch normalisation's sake.

    The gradient is the mean over the whole global batch; running statistics are those of shard 0.
    """
    model = build_model(case, seed=0)
    model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY)
    for step in range(case.steps):
        optimizer.zero_grad()
        kept: dict[str, Tensor] = {}
        for shard, micro_batches in enumerate(shard_batches(case, step)):
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            for batch in micro_batches:
                loss = cross_entropy(model(batch.images), batch.labels, reduction="sum")
                (loss / (case.batch * case.ranks)).backward()
            if shard == 0:
                kept = {name: buffer.clone() for name, buffer in model.named_buffers()}
            for name, buffer in model.named_buffers():
                buffer.copy_(before[name])
        for name, buffer in model.named_buffers():
            buffer.copy_(kept[name])
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step)
        optimizer.step()
    return copy.deepcopy(model.state_dict())
