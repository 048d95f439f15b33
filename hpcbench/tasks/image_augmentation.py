"""Augmentation of whole batches on the device: crop, flip, resize, normalise.

Random numbers depend only on seed, epoch and sample; results are the same bits on every device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpcbench.tasks.picture_decoding import CropBox

_GAMMA = 0x9E3779B97F4A7C15
_FACTORS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_MASK = (1 << 64) - 1
RANDOM_BITS = 32


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


def random_numbers(seed: int, epoch: int, samples: Tensor, number: int) -> Tensor:
    """Return the `number`-th random number of each sample in an epoch: int64 in [0, 2**32)."""
    return _shifted(_mixed(samples * _signed(_GAMMA) + _epoch_stream(seed, epoch, number)), 64 - RANDOM_BITS)


def random_number_table(seed: int, epoch: int, samples: Tensor, numbers: range) -> Tensor:
    """Return several of `draw`'s numbers of each sample, int64 [samples, numbers]."""
    streams = torch.tensor([_epoch_stream(seed, epoch, number) for number in numbers], device=samples.device)
    return _shifted(_mixed(samples[:, None] * _signed(_GAMMA) + streams), 64 - RANDOM_BITS)


def _epoch_stream(seed: int, epoch: int, number: int) -> int:
    mixed = _mixed_number(_mixed_number(_mixed_number(seed + _GAMMA) + epoch + _GAMMA) + number + _GAMMA)
    return _signed(mixed)


def random_below(limit: int, seed: int, epoch: int, samples: Tensor, number: int) -> Tensor:
    """Return whole numbers in [0, limit); `limit` is at most 2**31."""
    return (random_numbers(seed, epoch, samples, number) * limit) >> RANDOM_BITS


WEIGHT_ONE = 256  # weights of a pixel add up to this


def resample_boxes(images: Tensor, boxes: Tensor, size: int) -> Tensor:
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
    return sums.add_(WEIGHT_ONE // 2).div_(WEIGHT_ONE).floor_()


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
    steps = (running * WEIGHT_ONE * 2 + running[:, :, -1:]).div(2 * running[:, :, -1:], rounding_mode="floor")
    whole = steps.diff(dim=2, prepend=torch.zeros_like(steps[:, :, :1]))
    weights = torch.zeros(len(first), size, side, device=device)
    return weights.scatter_add_(2, pixel.clamp(0, side - 1), whole.float())


# Which of a sample's random numbers is for what.
FLIP_NUMBER, TOP_NUMBER, LEFT_NUMBER = 0, 1, 2
FIRST_TRY_NUMBER = 8  # of a random resized crop; each try takes four

CROP_AREA = (0.08, 1.0)  # share of the image that a random resized crop covers (Szegedy et al. 2015)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10


@dataclass(frozen=True)
class AugmentationSeed:
    """What random numbers depend on besides the sample; `epoch` None is an evaluation, which has none."""

    seed: int
    epoch: int | None


class Augmentation(Protocol):
    """One transform of training and one of evaluation, on uint8 [samples, height, width, 3]."""

    def __call__(self, images: Tensor, samples: Tensor, moment: AugmentationSeed) -> Tensor:
        """Return the images as the model is to see them, not yet normalised."""


@dataclass(frozen=True)
class CropAndFlip:
    """Zero padding, a random crop of the old size, and a mirror image every second time (He et al. 2016)."""

    padding: int

    def __call__(self, images: Tensor, samples: Tensor, moment: AugmentationSeed) -> Tensor:
        """Crop and mirror in one gather; evaluation takes the images as they are."""
        if moment.epoch is None:
            return images
        samples = samples.to(images.device)
        places, positions = (2 * self.padding + 1, (moment.seed, moment.epoch, samples))
        top = random_below(places, *positions, TOP_NUMBER)
        left = random_below(places, *positions, LEFT_NUMBER)
        return _cropped(images, self.padding, top, left, flips(samples, moment))


@dataclass(frozen=True)
class Flip:
    """A mirror image every second time: for images whose crop was taken while they were decoded."""

    def __call__(self, images: Tensor, samples: Tensor, moment: AugmentationSeed) -> Tensor:
        """Mirror what the draw says."""
        if moment.epoch is None:
            return images
        zero = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return _cropped(images, 0, zero, zero, flips(samples.to(images.device), moment))


@dataclass(frozen=True)
class ResizedCropAndFlip:
    """A random part of the image, of random shape, brought to `size`; evaluation takes the centre."""

    size: int

    def __call__(self, images: Tensor, samples: Tensor, moment: AugmentationSeed) -> Tensor:
        """Crop, resize and mirror; the boxes are worked out on the host, alike for every device."""
        height, width = images.shape[1:3]
        shapes = [(height, width)] * len(samples)
        boxes = torch.tensor(crop_boxes(shapes, samples, moment), dtype=torch.int64)
        resized = resample_boxes(images, boxes.to(images.device, non_blocking=True), self.size)
        return Flip()(resized, samples, moment)


def flips(samples: Tensor, moment: AugmentationSeed) -> Tensor:
    """Return which samples are mirrored, bool [samples]."""
    assert moment.epoch is not None
    return random_below(2, moment.seed, moment.epoch, samples, FLIP_NUMBER).bool()


def _cropped(images: Tensor, padding: int, top: Tensor, left: Tensor, flip: Tensor) -> Tensor:
    count, height, width, channels = images.shape
    high, wide = height + 2 * padding, width + 2 * padding
    padded = images
    if padding:
        padded = images.new_zeros(count, high, wide, channels)
        padded[:, padding : padding + height, padding : padding + width] = images
    rows = torch.arange(height, device=images.device) + top[:, None]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flip[:, None], columns.flip(0), columns) + left[:, None]
    rows += torch.arange(count, device=images.device)[:, None] * high
    pixels = (rows[:, :, None] * wide + columns[:, None, :]).flatten()
    # Whole pixels by one flat index: five times as fast as indexing each dimension.
    return padded.view(-1, channels).index_select(0, pixels).view(images.shape)


def crop_boxes(shapes: Sequence[tuple[int, int]], samples: Tensor, moment: AugmentationSeed) -> list[CropBox]:
    """Return the part of each image that is used; `shapes` are (height, width), `samples` is on the host.

    Training: the first of ten random boxes that fits inside the image, else the largest one in the middle of
    an allowed ratio (torchvision's RandomResizedCrop). Evaluation: the centre, as it is left by resizing the
    shorter side to 8/7 of `size` (256 for 224) and cutting out `size`.
    """
    numbers = crop_numbers(samples, moment)
    return [crop_box(*shape, None if numbers is None else numbers[row]) for row, shape in enumerate(shapes)]


def crop_numbers(samples: Tensor, moment: AugmentationSeed) -> list[list[int]] | None:
    """Return what `crop_box` needs for each sample; None for an evaluation."""
    if moment.epoch is None:
        return None
    which = range(FIRST_TRY_NUMBER, FIRST_TRY_NUMBER + 4 * CROP_TRIES)
    numbers: list[list[int]] = random_number_table(moment.seed, moment.epoch, samples, which).tolist()
    return numbers


def crop_box(height: int, width: int, numbers: list[int] | None) -> CropBox:
    """Return the part of an image that is used; without numbers that of an evaluation."""
    if numbers is None:
        return _centre(height, width)
    uniform = [number / (1 << RANDOM_BITS) for number in numbers]
    for first in range(0, len(uniform), 4):
        area, ratio, top, left = uniform[first : first + 4]
        pixels = height * width * (CROP_AREA[0] + area * (CROP_AREA[1] - CROP_AREA[0]))
        low, high = (math.log(ratio_limit) for ratio_limit in CROP_RATIO)
        aspect = math.exp(low + ratio * (high - low))
        wide, tall = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return CropBox(int(top * (height - tall + 1)), int(left * (width - wide + 1)), tall, wide)
    wide = min(width, max(1, round(height * CROP_RATIO[1])))
    tall = min(height, max(1, round(width / CROP_RATIO[0])))
    return CropBox((height - tall) // 2, (width - wide) // 2, tall, wide)


def _centre(height: int, width: int) -> CropBox:
    side = max(1, round(min(height, width) * 7 / 8))
    return CropBox((height - side) // 2, (width - side) // 2, side, side)


@dataclass(frozen=True)
class NormaliseImages:
    """Brings uint8 [samples, height, width, 3] to mean 0 and deviation 1, as [samples, 3, height, width].

    Subtraction and division are operations of their own: fused, a GPU would round differently from a CPU.
    """

    mean: tuple[float, float, float]  # of each channel, of values in [0, 1]
    deviation: tuple[float, float, float]
    dtype: torch.dtype
    channels_last: bool

    def __call__(self, images: Tensor) -> Tensor:
        """Return a new tensor in the run's type and memory format."""
        count, height, width, channels = images.shape
        if self.channels_last:
            # Rows of pixels against rows of constants: broadcasting over three values is six times as slow.
            mean, deviation = (values.repeat(width) for values in self._constants(images.device))
            rows = images.reshape(count, height, width * channels).to(self.dtype)
            return rows.sub_(mean).div_(deviation).view(images.shape).permute(0, 3, 1, 2)
        mean, deviation = (values.view(-1, 1, 1) for values in self._constants(images.device))
        return images.permute(0, 3, 1, 2).contiguous().to(self.dtype).sub_(mean).div_(deviation)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        made = (
            torch.tensor(channel_values, dtype=self.dtype) * 255
            for channel_values in (self.mean, self.deviation)
        )
        mean, deviation = (values.to(device, non_blocking=True) for values in made)
        return mean, deviation
