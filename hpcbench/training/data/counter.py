"""Random numbers without a state: what a sample gets depends on seed, epoch and sample alone.

A generator that is asked in turn gives a sample other numbers when the order, the number of ranks or that of
workers changes. Here each number is a hash of where it is needed: splitmix64 (Steele, Lea and Flood 2014,
figure 17), in 64-bit integers that wrap, which CPUs and GPUs compute alike.
"""

from __future__ import annotations

import torch
from torch import Tensor

_GAMMA = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1
BITS = 32


def _signed(value: int) -> int:
    value &= _MASK
    return value - (1 << 64) if value >> 63 else value


def _shifted(values: Tensor, by: int) -> Tensor:
    return (values >> by) & ((1 << (64 - by)) - 1)  # `>>` of a signed number would drag its sign along


def _mixed(values: Tensor) -> Tensor:
    values = (values ^ _shifted(values, 30)) * _signed(_FACTORS[0])
    values = (values ^ _shifted(values, 27)) * _signed(_FACTORS[1])
    return values ^ _shifted(values, 31)


def _mixed_number(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _FACTORS[0]) & _MASK
    value = ((value ^ (value >> 27)) * _FACTORS[1]) & _MASK
    return value ^ (value >> 31)


def draw(seed: int, epoch: int, samples: Tensor, number: int) -> Tensor:
    """Return the `number`-th random number of each sample in an epoch: int64 in [0, 2**32)."""
    return _shifted(_mixed(samples * _signed(_GAMMA) + _stream(seed, epoch, number)), 64 - BITS)


def draw_many(seed: int, epoch: int, samples: Tensor, numbers: range) -> Tensor:
    """Return several of `draw`'s numbers of each sample, int64 [samples, numbers]."""
    streams = torch.tensor([_stream(seed, epoch, number) for number in numbers], device=samples.device)
    return _shifted(_mixed(samples[:, None] * _signed(_GAMMA) + streams), 64 - BITS)


def _stream(seed: int, epoch: int, number: int) -> int:
    mixed = _mixed_number(_mixed_number(_mixed_number(seed + _GAMMA) + epoch + _GAMMA) + number + _GAMMA)
    return _signed(mixed)


def draw_below(limit: int, seed: int, epoch: int, samples: Tensor, number: int) -> Tensor:
    """Return whole numbers in [0, limit); `limit` is at most 2**31."""
    return (draw(seed, epoch, samples, number) * limit) >> BITS
