"""A small convolutional network for small images."""

from __future__ import annotations

from torch import nn

SMALLCONV_WIDTHS = (32, 64, 128)


class SmallConv(nn.Sequential):
    """Three blocks of 3x3 convolution, batch normalisation and ReLU, the last two halving the image.

    Takes [samples, channels, height, width] of any size from 4 x 4, returns logits [samples, classes].
    """

    def __init__(self, *, channels: int, classes: int, stem: str | None = None) -> None:
        blocks: list[nn.Module] = []
        for index, width in enumerate(SMALLCONV_WIDTHS):
            stride = 1 if index == 0 else 2
            blocks.append(
                nn.Sequential(
                    nn.Conv2d(channels, width, kernel_size=3, stride=stride, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
            channels = width
        super().__init__(
            *blocks, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))
        )
