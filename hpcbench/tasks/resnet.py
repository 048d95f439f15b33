"""torchvision's ResNets, with the stem of the paper or the usual one for 32 x 32 images."""

from __future__ import annotations

from typing import Any

from torch import nn

from hpcbench.tasks.picture_decoding import make_torchvision_importable

make_torchvision_importable()

from torchvision.models import resnet  # noqa: E402  only importable after the line above


class ResNet(resnet.ResNet):  # type: ignore[misc]  # torchvision has no types
    """A ResNet for colour images that says where it may be cut."""

    def __init__(
        self, block: Any, layers: list[int], *, channels: int, classes: int, stem: str | None
    ) -> None:
        assert channels == 3, "ResNets take colour images"
        super().__init__(block, layers, num_classes=classes)
        if stem == "cifar":
            # He et al. 2016, section 4.2: a 3x3 convolution, no pooling; 32 x 32 images are small already.
            self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()

    def blocks(self) -> list[dict[str, nn.Module]]:
        """Return stem, residual blocks and classifier: all of them in order are the whole model."""
        stem = {name: getattr(self, name) for name in ("conv1", "bn1", "relu", "maxpool")}
        residual = [
            {f"{layer}.{index}": block}
            for layer in ("layer1", "layer2", "layer3", "layer4")
            for index, block in getattr(self, layer).named_children()
        ]
        return [stem, *residual, {"avgpool": self.avgpool, "flatten": nn.Flatten(1), "fc": self.fc}]


def resnet18(**shape: Any) -> nn.Module:
    """ResNet-18, 11.7 million parameters at 1,000 classes."""
    return ResNet(resnet.BasicBlock, [2, 2, 2, 2], **shape)


def resnet34(**shape: Any) -> nn.Module:
    """ResNet-34, 21.8 million parameters at 1,000 classes."""
    return ResNet(resnet.BasicBlock, [3, 4, 6, 3], **shape)


def resnet50(**shape: Any) -> nn.Module:
    """ResNet-50, 25.6 million parameters at 1,000 classes."""
    return ResNet(resnet.Bottleneck, [3, 4, 6, 3], **shape)
