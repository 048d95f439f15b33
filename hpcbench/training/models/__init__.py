"""The models and the table of their names. Importing this imports no torch."""

from __future__ import annotations

from hpcbench.config.catalog import ModelEntry

MODELS: dict[str, ModelEntry] = {
    "smallconv": ModelEntry(
        target="hpcbench.training.models.smallconv:SmallConv", parameters=222_472, blocks=4
    ),
    **{
        name: ModelEntry(
            target=f"hpcbench.training.models.resnet:{name}",
            parameters=parameters,
            blocks=blocks,
            stems=("imagenet", "cifar"),
            input_channels=3,
        )
        for name, parameters, blocks in (
            ("resnet18", 11_689_512, 10),
            ("resnet34", 21_797_672, 18),
            ("resnet50", 25_557_032, 18),
        )
    },
}
