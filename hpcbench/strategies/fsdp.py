"""torch's fully_shard (FSDP2): parameters, gradients and optimizer state are sharded over the ranks."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from hpcbench.strategies.model_partition import blocks_of
from hpcbench.strategies.strategy_base import ReplicatedStrategy
from hpcbench.strategies.world import MakeOptimizer


class FullyShardedStrategy(ReplicatedStrategy):
    """Each rank keeps its part of every parameter."""

    reshard_after_forward: ClassVar[bool]
    sharded: FSDPModule  # the model, as fully_shard has changed it

    def prepare(self, model: nn.Module, make_optimizer: MakeOptimizer) -> None:
        """Spread the model of rank 0 over the ranks."""
        self.broadcast_initial_state(model)
        assert self.world.trainers is not None
        mesh = DeviceMesh.from_group(self.world.trainers, self.world.device.type)
        for block in blocks_of(model):
            owners = [module for module in block.values() if any(True for _ in module.parameters())]
            fully_shard(owners, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        self.sharded = fully_shard(model, mesh=mesh, reshard_after_forward=self.reshard_after_forward)
        super().prepare(model, make_optimizer)

    def accumulating(self, last: bool) -> AbstractContextManager[object]:
        """Exchange gradients with the last micro-batch only."""
        self.sharded.set_requires_gradient_sync(last)
        return nullcontext()

    def weights(self) -> dict[str, Tensor]:
        """Gather the whole model on every rank."""
        return {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in super().weights().items()
        }

    def state(self) -> dict[str, Any]:
        """Return this rank's parts, as plain tensors."""
        return {name: _local_shards(tree) for name, tree in super().state().items()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take this rank's parts back."""
        references = self.model.state_dict()
        model = {name: _as_sharded(references[name], part) for name, part in state["model"].items()}
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        momenta = {
            index: {name: _as_sharded(parameters[index], part) for name, part in parts.items()}
            for index, parts in state["optimizer"]["state"].items()
        }
        super().load_state({"model": model, "optimizer": {**state["optimizer"], "state": momenta}})


class FsdpGrad(FullyShardedStrategy):
    """Parameters of a block stay gathered from forward to backward."""

    reshard_after_forward = False


class FsdpFull(FullyShardedStrategy):
    """Parameters of a block are gathered anew for backward."""

    reshard_after_forward = True


def _local_shards(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _local_shards(value) for key, value in tree.items()}
    return tree.to_local() if isinstance(tree, DTensor) else tree


def _as_sharded(reference: Tensor, part: Any) -> Any:
    """Return a rank's part of something that is sharded as `reference` is, if that is sharded."""
    if not isinstance(reference, DTensor) or not isinstance(part, Tensor):
        return part
    return DTensor.from_local(
        part.to(reference.device),
        reference.device_mesh,
        reference.placements,
        run_check=False,
        shape=reference.shape,
        stride=reference.stride(),
    )
