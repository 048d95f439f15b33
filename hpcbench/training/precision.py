"""Number formats of a run: dtype of the model, autocast, and loss scaling for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import Optimizer

from hpcbench.sweep.run_spec import Precision as Name

AUTOCAST_DTYPES = {"amp_fp16": torch.float16, "amp_bf16": torch.bfloat16}


class LossScaler:
    """Multiplies the loss so that fp16 gradients do not underflow (Micikevicius et al. 2018, section 3.2).

    The scale doubles after `growth_interval` good steps and halves when a gradient is not finite: torch's
    GradScaler, except that the ranks of a group always come to the same decision, even where a strategy
    leaves them with different gradients.
    """

    def __init__(self, scale: float = 2.0**16, growth_interval: int = 2000) -> None:
        self.scale = scale
        self.growth_interval = growth_interval
        self.good_steps = 0

    def unscale(self, optimizer: Optimizer, group: dist.ProcessGroup | None) -> bool:
        """Divide the gradients by the scale; return whether they are finite on all ranks of the group."""
        gradients = [
            local_shard(p.grad)
            for param_group in optimizer.param_groups
            for p in param_group["params"]
            if p.grad is not None
        ]
        torch._foreach_mul_(gradients, 1.0 / self.scale)
        device = gradients[0].device  # they may lie on several
        norms = torch.stack([norm.to(device, torch.float32) for norm in torch._foreach_norm(gradients)])
        bad = (~norms.isfinite().all()).float()
        if group is not None:
            dist.all_reduce(bad, dist.ReduceOp.MAX, group=group)
        return not bool(bad)

    def adapt(self, finite: bool) -> None:
        """Change the scale by what the last step has shown."""
        self.good_steps = self.good_steps + 1 if finite else 0
        if not finite:
            self.scale /= 2
        elif self.good_steps == self.growth_interval:
            self.scale *= 2
            self.good_steps = 0


def local_shard(tensor: Tensor) -> Tensor:
    """Return what this rank has of a tensor: all of it, or its shard of a DTensor (same memory)."""
    # Not isinstance: importing DTensor takes half a second that runs without shards need not spend.
    to_local = getattr(tensor, "to_local", None)
    return tensor if to_local is None else to_local()


class RunPrecision:
    """The precision of a run; `skipped_updates` counts the steps whose gradients were not finite."""

    def __init__(self, name: Name, device: torch.device) -> None:
        self.dtype = torch.float64 if name == "fp64" else torch.float32
        self.skipped_updates = 0
        self._device = device
        self._autocast_dtype = AUTOCAST_DTYPES.get(name)
        self._scaler = LossScaler() if name == "amp_fp16" else None
        allow_tf32 = name == "tf32"
        torch.backends.cuda.matmul.allow_tf32 = allow_tf32
        torch.backends.cudnn.allow_tf32 = allow_tf32

    def state(self) -> dict[str, float]:
        """Return what has to be kept to go on later."""
        scaler = {"scale": self._scaler.scale, "good_steps": self._scaler.good_steps} if self._scaler else {}
        return {"skipped_updates": self.skipped_updates, **scaler}

    def load_state(self, state: dict[str, float]) -> None:
        """Go on from what `state` returned."""
        self.skipped_updates = int(state["skipped_updates"])
        if self._scaler:
            self._scaler.scale, self._scaler.good_steps = state["scale"], int(state["good_steps"])

    def autocast(self) -> AbstractContextManager[object]:
        """Return the context for forward and loss."""
        if self._autocast_dtype is None:
            return nullcontext()
        return torch.autocast(self._device.type, dtype=self._autocast_dtype)

    def scaled(self, loss: Tensor) -> Tensor:
        """Return what to back-propagate from: the loss, scaled where the precision asks for it."""
        return loss if self._scaler is None else loss * self._scaler.scale

    def step(self, optimizer: Optimizer, group: dist.ProcessGroup | None) -> None:
        """Update, unless a gradient of any rank in the group is not finite: then all of them skip."""
        finite = True
        if self._scaler is not None:
            finite = self._scaler.unscale(optimizer, group)
            self._scaler.adapt(finite)
        if finite:
            optimizer.step()
        else:
            self.skipped_updates += 1
