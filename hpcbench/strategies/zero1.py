"""ZeRO stage 1 (Rajbhandari et al. 2020): DDP with the optimizer's state sharded over the ranks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.optim import Optimizer

from hpcbench.strategies.ddp import Ddp
from hpcbench.strategies.world import MakeOptimizer


class Zero1(Ddp):
    """DDP with torch's ZeroRedundancyOptimizer."""

    optimizer: ZeroRedundancyOptimizer

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Give each rank an optimizer for its part, chosen by torch to be about equal in bytes."""

        def make(parameters: Iterable[nn.Parameter]) -> Optimizer:
            full_optimizer = make_optimizer(parameters)  # never used: each rank makes its part of it
            return ZeroRedundancyOptimizer(
                full_optimizer.param_groups,
                optimizer_class=type(full_optimizer),
                process_group=self.world.trainers,
                parameters_as_bucket_view=self.options.parameters_as_bucket_view,
                **full_optimizer.defaults,
            )

        super().prepare(model, make)
        if self.skips_exchange:
            self.optimizer = self.optimizer.optim  # this rank's part, and nothing sent after it

    def clear_gradients(self) -> None:
        """Forget the gradient of all parameters, also of those that others update."""
        self.model.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Any]:
        """Return the model, and this rank's part of the optimizer's state."""
        return {"model": self.model.state_dict(), "optimizer": self.optimizer.optim.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.optim.load_state_dict(state["optimizer"])
