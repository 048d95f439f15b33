"""A model's trained parameters as one flat vector, and how such a vector is cut."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


class FlatModel:
    """All trained parameters of a model, and their gradients, in one flat tensor each.

    The model's own are views into them, each in its memory layout: what arrives in the flat vector is in the
    model, and backward accumulates into the flat gradient. Nothing is copied to send it. The first `matrices`
    elements belong to parameters of several dimensions, the rest to biases and normalisation, which an
    optimizer may treat differently.
    """

    def __init__(self, model: nn.Module) -> None:
        # False sorts before True, and the order inside each kind stays.
        trained = sorted((p for p in model.parameters() if p.requires_grad), key=lambda p: p.ndim <= 1)
        sizes = [parameter.numel() for parameter in trained]
        self.matrices = sum(parameter.numel() for parameter in trained if parameter.ndim > 1)
        self.values = torch.empty(sum(sizes), dtype=trained[0].dtype, device=trained[0].device)
        self.gradient = torch.zeros_like(self.values)
        self.parameter = nn.Parameter(self.values)
        self.parameter.grad = self.gradient
        for parameter, values, gradient in zip(
            trained, self.values.split(sizes), self.gradient.split(sizes), strict=True
        ):
            size, stride = parameter.size(), parameter.stride()
            parameter.data = values.as_strided(size, stride).copy_(parameter.detach())
            parameter.grad = gradient.as_strided(size, stride)


@dataclass(frozen=True)
class Piece:
    """Elements `start` to `stop` of a flat vector; `number` counts within the shard."""

    number: int
    start: int
    stop: int

    def of(self, vector: Tensor, offset: int = 0) -> Tensor:
        """Return the piece of a vector whose first element is number `offset` of the whole."""
        return vector[self.start - offset : self.stop - offset]


def cut(elements: int, width: int, shards: int, bucket_bytes: float) -> list[list[Piece]]:
    """Cut a vector evenly into shards, and each shard into pieces of at most `bucket_bytes`.

    `width` is that of an element, in bytes. A parameter may be split between two shards.
    """
    longest = max(1, int(bucket_bytes // width))
    shares = []
    for shard in range(shards):
        first, end = elements * shard // shards, elements * (shard + 1) // shards
        starts = range(first, end, longest)
        shares.append([Piece(i, start, min(start + longest, end)) for i, start in enumerate(starts)])
    return shares
