"""torchvision's ResNets, with the stem of their paper or the usual one for 32 x 32 images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from hpcbench.training.torchvision_import import make_importable

make_importable()

from torchvision import models  # noqa: E402  only importable after the line above


def _build(make: Callable[..., Any], *, channels: int, classes: int, stem: str | None) -> nn.Module:
    assert channels == 3, "ResNets take colour images"
    model = make(weights=None, num_classes=classes)
    if stem == "cifar":
        # He et al. 2016, section 4.2: a 3x3 convolution, no pooling; 32 x 32 images are small already.
        model.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        model.maxpool = nn.Identity()
    assert isinstance(model, nn.Module)
    return model


def resnet18(**shape: Any) -> nn.Module:
    """ResNet-18, 11.7 million parameters at 1,000 classes."""
    return _build(models.resnet18, **shape)


def resnet34(**shape: Any) -> nn.Module:
    """ResNet-34, 21.8 million parameters at 1,000 classes."""
    return _build(models.resnet34, **shape)


def resnet50(**shape: Any) -> nn.Module:
    """ResNet-50, 25.6 million parameters at 1,000 classes."""
    return _build(models.resnet50, **shape)
