"""torch.nn.DataParallel: one process copies the model to its devices for every batch, which it splits.
On a CPU torch runs the module itself; such a run is marked as emulated.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn.parallel import DataParallel

from hpcbench.strategies.strategy_base import MultiDeviceStrategy
from hpcbench.strategies.world import MakeOptimizer


class Dp(MultiDeviceStrategy):
    """One process, several devices. Running statistics are those of the first device, as torch keeps them."""

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Wrap the model."""
        super().prepare(model, make_optimizer)
        on_gpus = self.world.device.type == "cuda"
        self.module = DataParallel(model, list(dict.fromkeys(self.world.devices)) if on_gpus else None)

    def predict(self, images: Tensor) -> Tensor:
        """Evaluate on all devices, too."""
        logits: Tensor = self.module(images)
        return logits
