"""The models and the table of their names. Importing this imports no torch."""

from __future__ import annotations

from hpcbench.config.catalog import ModelEntry

MODELS: dict[str, ModelEntry] = {
    "smallconv": ModelEntry(target="hpcbench.training.models.smallconv:SmallConv", blocks=4),
    **{
        name: ModelEntry(
            target=f"hpcbench.training.models.resnet:{name}",
            blocks=blocks,
            stems=("imagenet", "cifar"),
            input_channels=3,
        )
        for name, blocks in (("resnet18", 10), ("resnet34", 18), ("resnet50", 18))
    },
}
