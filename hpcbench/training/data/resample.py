"""Resizing of boxes of many images at once, the same bits on every device.

The filter is the triangle that Pillow calls BILINEAR, widened where the image shrinks. Its weights are whole
256ths, worked out in integers, and each pass rounds to whole grey levels: all sums stay below 2**24, where
float32 is exact in whatever order, and with TF32, a device adds them up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ONE = 256  # weights of a pixel add up to this


def resample(images: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Bring a box of each image to `size` x `size`.

    `images` is uint8 [samples, height, width, channels], `boxes` int64 [samples, 4] (top, left, height,
    width); returns uint8 [samples, size, size, channels].
    """
    count, height, width, channels = images.shape
    down = _weights(boxes[:, 0], boxes[:, 2], height, size)  # [samples, size, height]
    across = _weights(boxes[:, 1], boxes[:, 3], width, size)  # [samples, size, width]
    rows = images.reshape(count, height, width * channels).float()
    lines = _rounded(torch.bmm(down, rows)).view(count, size, width, channels)
    columns = lines.permute(0, 2, 1, 3).reshape(count, width, size * channels)
    pixels = _rounded(torch.bmm(across, columns)).view(count, size, size, channels)
    return pixels.permute(0, 2, 1, 3).to(torch.uint8).contiguous()


def _rounded(sums: Tensor) -> Tensor:
    return sums.add_(ONE // 2).div_(ONE).floor_()


def _weights(first: Tensor, length: Tensor, side: int, size: int) -> Tensor:
    """Return the weights of `side` pixels in each of `size` new ones, float32 [samples, size, side].

    In units of 1 / (2 size) pixels: new pixel i lies at 2 size first + (2 i + 1) length, old pixel j at
    size (2 j + 1), and the triangle is max(2 size, 2 length) wide on each side.
    """
    device = first.device
    new, reach = torch.arange(size, device=device), 2 * torch.maximum(length, torch.full_like(length, size))
    centre = 2 * size * first[:, None] + (2 * new + 1) * length[:, None]  # [samples, size]
    taps = 2 * math.ceil(max(1.0, side / size)) + 2
    begin = (centre - reach[:, None] - size).div(2 * size, rounding_mode="floor") + 1
    pixel = begin[:, :, None] + torch.arange(taps, device=device)  # [samples, size, taps]
    height = reach[:, None, None] - (size * (2 * pixel + 1) - centre[:, :, None]).abs()
    last = (first + length)[:, None, None]
    inside = (pixel >= first[:, None, None]) & (pixel < last)
    height = torch.where(inside, height.clamp(min=0), 0)
    # Rounding the running sum, not each weight, makes them add up to ONE exactly.
    running = height.cumsum(2)
    steps = (running * ONE * 2 + running[:, :, -1:]).div(2 * running[:, :, -1:], rounding_mode="floor")
    whole = steps.diff(dim=2, prepend=torch.zeros_like(steps[:, :, :1]))
    weights = torch.zeros(len(first), size, side, device=device)
    return weights.scatter_add_(2, pixel.clamp(0, side - 1), whole.float())
