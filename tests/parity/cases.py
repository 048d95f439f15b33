"""The cases of the parity proof: every synchronous strategy of the name table, in many shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hpcbench.strategies.base import Batch
from hpcbench.training.models.smallconv import SmallConv

CLASSES = 7
IMAGE = (2, 8, 8)
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-3

# strategy -> the options of each of its variants
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "single_gpu": [{}],
    "ddp": [{}, {"bucket_mb": 0.05, "gradient_as_bucket_view": True}],
    "collective": [
        {"exchange": exchange, "bucket_mb": 0.05} for exchange in ("per_parameter", "bucketed", "overlapped")
    ],
}


@dataclass(frozen=True)
class Case:
    """One training: `batch` samples a rank and step, split into `accumulation` micro-batches."""

    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    ranks: int = 2
    model: str = "batch_norm"
    precision: str = "fp64"
    steps: int = 50
    batch: int = 5
    accumulation: int = 1

    @property
    def name(self) -> str:
        """A readable test id."""
        options = ",".join(f"{key}={value}" for key, value in self.options.items())
        extra = f"x{self.accumulation}" if self.accumulation > 1 else ""
        shape = f"{self.ranks}ranks-{self.model}-{self.precision}-bs{self.batch}{extra}"
        return f"{self.strategy}({options})-{shape}"

    @property
    def tolerance(self) -> float:
        """Largest relative difference of a weight to the reference."""
        return 1e-10 if self.precision == "fp64" else 1e-5


def all_cases() -> list[Case]:
    """List every case; those of one number of ranks share their processes."""
    cases = []
    for strategy, variants in VARIANTS.items():
        for options in variants:
            for ranks in (1,) if strategy == "single_gpu" else (2, 3, 4):
                base = {"strategy": strategy, "options": options, "ranks": ranks}
                cases += [
                    Case(**base),
                    Case(**base, model="plain", batch=3),
                    Case(**base, precision="fp32", steps=5),
                    Case(**base, batch=6, accumulation=3, steps=20),
                ]
    return cases


def build_model(case: Case, seed: int) -> nn.Module:
    """Return the case's net in the initial state of a seed."""
    torch.manual_seed(seed)
    if case.model == "batch_norm":
        model: nn.Module = SmallConv(channels=IMAGE[0], classes=CLASSES)
    else:
        model = nn.Sequential(
            nn.Flatten(), nn.Linear(128, 33), nn.Tanh(), nn.Linear(33, 17), nn.Tanh(), nn.Linear(17, CLASSES)
        )
    return model.to(torch.float64 if case.precision == "fp64" else torch.float32)


def shard_batches(case: Case, step: int) -> list[list[Batch]]:
    """Return the micro-batches of every shard for a step: what all ranks together see."""
    generator = torch.Generator().manual_seed(1000 + step)
    dtype = torch.float64 if case.precision == "fp64" else torch.float32
    total = case.batch * case.ranks
    images = torch.randn((total, *IMAGE), generator=generator, dtype=dtype)
    labels = torch.randint(CLASSES, (total,), generator=generator)
    return [
        [Batch(x, y) for x, y in zip(i.chunk(case.accumulation), k.chunk(case.accumulation), strict=True)]
        for i, k in zip(images.split(case.batch), labels.split(case.batch), strict=True)
    ]


def learning_rate(step: int) -> float:
    """A rate that changes, so that a strategy which ignores it is found out."""
    return LR * (1 - step / 100)
