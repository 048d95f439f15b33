"""What happens to images between cache and model: whole batches at once, on the device they are on.

Images are uint8 [samples, height, width, 3] up to here. A crop and a flip only move pixels, so both are one
gather of whole pixels; every result is the same bits on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hpcbench.training.data.counter import BITS, draw_below, draw_many
from hpcbench.training.data.resample import resample

CHANNELS = 3
# Which of a sample's random numbers is for what.
FLIP, TOP, LEFT = 0, 1, 2
FIRST_TRY = 8  # of a random resized crop; each try takes four

AREA = (0.08, 1.0)  # share of the image that a random resized crop covers (Szegedy et al. 2015)
RATIO = (3 / 4, 4 / 3)
TRIES = 10


@dataclass(frozen=True)
class Moment:
    """What random numbers depend on besides the sample; `epoch` None is an evaluation, which has none."""

    seed: int
    epoch: int | None


class Augmentation(Protocol):
    """One transform of training and one of evaluation, on uint8 [samples, height, width, 3]."""

    def __call__(self, images: Tensor, samples: Tensor, moment: Moment) -> Tensor:
        """Return the images as the model is to see them, not yet normalised."""


@dataclass(frozen=True)
class CropAndFlip:
    """Zero padding, a random crop of the old size, and a mirror image every second time (He et al. 2016)."""

    padding: int

    def __call__(self, images: Tensor, samples: Tensor, moment: Moment) -> Tensor:
        """Crop and mirror in one gather; evaluation takes the images as they are."""
        if moment.epoch is None:
            return images
        samples = samples.to(images.device)
        places, positions = (2 * self.padding + 1, (moment.seed, moment.epoch, samples))
        top = draw_below(places, *positions, TOP)
        left = draw_below(places, *positions, LEFT)
        return _cropped(images, self.padding, top, left, flips(samples, moment))


@dataclass(frozen=True)
class Flip:
    """A mirror image every second time: for images whose crop was taken while they were decoded."""

    def __call__(self, images: Tensor, samples: Tensor, moment: Moment) -> Tensor:
        """Mirror what the draw says."""
        if moment.epoch is None:
            return images
        zero = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        return _cropped(images, 0, zero, zero, flips(samples.to(images.device), moment))


@dataclass(frozen=True)
class ResizedCropAndFlip:
    """A random part of the image, of random shape, brought to `size`; evaluation takes the centre."""

    size: int

    def __call__(self, images: Tensor, samples: Tensor, moment: Moment) -> Tensor:
        """Crop, resize and mirror; the boxes are worked out on the host, alike for every device."""
        height, width = images.shape[1:3]
        shapes = [(height, width)] * len(samples)
        boxes = torch.tensor(crop_boxes(shapes, samples, moment), dtype=torch.int64)
        resized = resample(images, boxes.to(images.device, non_blocking=True), self.size)
        return Flip()(resized, samples, moment)


def flips(samples: Tensor, moment: Moment) -> Tensor:
    """Return which samples are mirrored, bool [samples]."""
    assert moment.epoch is not None
    return draw_below(2, moment.seed, moment.epoch, samples, FLIP).bool()


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


Box = tuple[int, int, int, int]  # top, left, height, width


def crop_boxes(shapes: Sequence[tuple[int, int]], samples: Tensor, moment: Moment) -> list[Box]:
    """Return the part of each image that is used; `shapes` are (height, width), `samples` is on the host.

    Training: the first of ten random boxes that fits inside the image, else the largest one in the middle of
    an allowed ratio (torchvision's RandomResizedCrop). Evaluation: the centre, as it is left by resizing the
    shorter side to 8/7 of `size` (256 for 224) and cutting out `size`.
    """
    numbers = crop_numbers(samples, moment)
    return [crop_box(*shape, None if numbers is None else numbers[row]) for row, shape in enumerate(shapes)]


def crop_numbers(samples: Tensor, moment: Moment) -> list[list[int]] | None:
    """Return what `crop_box` needs for each sample; None for an evaluation."""
    if moment.epoch is None:
        return None
    which = range(FIRST_TRY, FIRST_TRY + 4 * TRIES)
    numbers: list[list[int]] = draw_many(moment.seed, moment.epoch, samples, which).tolist()
    return numbers


def crop_box(height: int, width: int, numbers: list[int] | None) -> Box:
    """Return the part of an image that is used; without numbers that of an evaluation."""
    if numbers is None:
        return _centre(height, width)
    uniform = [number / (1 << BITS) for number in numbers]
    for first in range(0, len(uniform), 4):
        area, ratio, top, left = uniform[first : first + 4]
        pixels = height * width * (AREA[0] + area * (AREA[1] - AREA[0]))
        low, high = (math.log(each) for each in RATIO)
        aspect = math.exp(low + ratio * (high - low))
        wide, tall = round(math.sqrt(pixels * aspect)), round(math.sqrt(pixels / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            return int(top * (height - tall + 1)), int(left * (width - wide + 1)), tall, wide
    wide = min(width, max(1, round(height * RATIO[1])))
    tall = min(height, max(1, round(width / RATIO[0])))
    return (height - tall) // 2, (width - wide) // 2, tall, wide


def _centre(height: int, width: int) -> Box:
    side = max(1, round(min(height, width) * 7 / 8))
    return (height - side) // 2, (width - side) // 2, side, side


@dataclass(frozen=True)
class Normalise:
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
            mean, deviation = (each.repeat(width) for each in self._constants(images.device))
            rows = images.reshape(count, height, width * channels).to(self.dtype)
            return rows.sub_(mean).div_(deviation).view(images.shape).permute(0, 3, 1, 2)
        mean, deviation = (each.view(-1, 1, 1) for each in self._constants(images.device))
        return images.permute(0, 3, 1, 2).contiguous().to(self.dtype).sub_(mean).div_(deviation)

    def _constants(self, device: torch.device) -> tuple[Tensor, Tensor]:
        made = (torch.tensor(each, dtype=self.dtype) * 255 for each in (self.mean, self.deviation))
        mean, deviation = (each.to(device, non_blocking=True) for each in made)
        return mean, deviation
