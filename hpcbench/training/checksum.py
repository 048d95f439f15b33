"""A checksum of tensors that is computed where they lie and depends on every bit and its position."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
ODD = 0x9E3779B1  # 2^32 over the golden ratio: neighbouring positions get unlike factors


def checksum(tensors: Mapping[str, Tensor], names: Iterable[str]) -> str:
    """Return 16 hexadecimal digits over the named tensors, in the order of the names.

    Each word is multiplied by an odd factor of its position and summed modulo 2^64: exact integer arithmetic,
    so that equal bits give equal sums on any device, and two swapped values do not.
    """
    total = 0
    for index, name in enumerate(names):
        tensor = tensors[name].detach().contiguous()
        words = tensor.view(-1).view(WORDS[tensor.element_size()]).long() if tensor.numel() else tensor.long()
        factors = torch.arange(words.numel(), device=words.device, dtype=torch.int64) * ODD | 1
        part = int((words.view(-1) * factors).sum())
        total = (total * 6364136223846793005 + part + index + 1) % 2**64
    return f"{total:016x}"
