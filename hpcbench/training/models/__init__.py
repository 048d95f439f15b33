"""The models and the table of their names. Importing this imports no torch."""

from __future__ import annotations

from hpcbench.config.catalog import ModelEntry

MODELS: dict[str, ModelEntry] = {
    "smallconv": ModelEntry(target="hpcbench.training.models.smallconv:SmallConv"),
    **{
        name: ModelEntry(
            target=f"hpcbench.training.models.resnet:{name}", stems=("imagenet", "cifar"), input_channels=3
        )
        for name in ("resnet18", "resnet34", "resnet50")
    },
}
