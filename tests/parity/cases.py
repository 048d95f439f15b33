"""The cases of the parity proof: every synchronous strategy of the name table, in many shapes."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.catalog_entries import ProcessLayout, StrategyEntry
from hpcbench.tasks.batches import Batch
from hpcbench.tasks.smallconv import SmallConv

CLASSES = 7
IMAGES = {"batch_norm": (2, 8, 8), "channels_last": (2, 8, 8), "plain": (2, 8, 8), "resnet18": (3, 16, 16)}
LR, MOMENTUM, WEIGHT_DECAY = 0.05, 0.9, 1e-3
EVALUATED = 3  # samples of each shard's evaluation batch
DTYPES = {"fp64": torch.float64}  # of the weights; otherwise fp32

# strategy -> the options of each of its variants
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "single_gpu": [{}],
    "dp": [{}],
    "model_parallel": [{}],
    "ddp": [{}, {"bucket_mb": 0.05, "gradient_as_bucket_view": True, "broadcast_buffers": False}],
    "fsdp_grad": [{}],
    "fsdp_full": [{}],
    "zero1": [{}, {"parameters_as_bucket_view": True, "bucket_mb": 0.05}],
    "collective": [
        {"exchange": exchange, "bucket_mb": 0.05} for exchange in ("per_parameter", "bucketed", "overlapped")
    ],
    "pipeline": [{"schedule": "gpipe", "micro_batches": 3}, {"schedule": "1f1b", "micro_batches": 4}],
    "local_sgd": [{"local_steps": 1}],
    "ps": [
        {"mode": "async", "bucket_mb": 0.05},
        {"mode": "bounded", "max_staleness": 1},
        {"mode": "sync"},
        {"mode": "sync", "servers": 2, "bucket_mb": 0.02},
    ],
}

# One of each family is tried on a ResNet, too.
LARGE = {"dp", "model_parallel", "ddp", "fsdp_full", "zero1", "collective", "pipeline", "ps"}

# Strategies and options that learn something else on purpose.
INEXACT: dict[str, list[dict[str, Any]]] = {
    "ddp": [{"compression": "fp16"}, {"compression": "bf16"}],
    "local_sgd": [{"local_steps": 3}],
}


@dataclass(frozen=True)
class Case:
    """One training: `batch` samples a shard and step, split into `accumulation` micro-batches."""

    strategy: str
    options: dict[str, Any] = field(default_factory=dict)
    ranks: int = 2
    devices: int = 1
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
        where = f"{self.ranks}ranks" if self.devices == 1 else f"{self.devices}devices"
        shape = f"{where}-{self.model}-{self.precision}-bs{self.batch}{extra}"
        return f"{self.strategy}({options})-{shape}"

    @property
    def entry(self) -> StrategyEntry:
        """Its line of the name table."""
        return STRATEGIES[self.strategy]

    @property
    def processes(self) -> int:
        """Processes that it takes."""
        return self.ranks + self.entry.count_servers(self.options)

    @property
    def shape(self) -> Shape:
        """What the reference needs to know of it."""
        return Shape(
            shards=self.ranks if self.entry.processes is ProcessLayout.DATA_PARALLEL else 1,
            model=self.model,
            precision=self.precision,
            steps=self.steps,
            batch=self.batch,
            splits=self.accumulation * self.options.get("micro_batches", 1),
        )

    @property
    def tolerance(self) -> float:
        """Largest relative difference of a weight to the reference."""
        return 1e-10 if self.precision == "fp64" else 1e-5


@dataclass(frozen=True)
class Shape:
    """What is learnt: equal shapes have one reference. A shard's batch is `splits` micro-batches."""

    shards: int
    model: str
    precision: str
    steps: int
    batch: int
    splits: int

    @property
    def dtype(self) -> torch.dtype:
        """The number format of weights and images."""
        return DTYPES.get(self.precision, torch.float32)


def all_cases() -> list[Case]:
    """List every case; those of one number of processes share them. More ranks have fewer shapes."""
    return [
        case
        for strategy, variants in VARIANTS.items()
        for options in variants
        for places in places_of(strategy, options)
        for case in shapes_of(strategy, options, places)
    ] + short_cases(
        {strategy: variants[-1:] for strategy, variants in VARIANTS.items() if "fsdp" not in strategy},
        model="channels_last",
        steps=6,
    )


def places_of(strategy: str, options: dict[str, Any]) -> list[dict[str, int]]:
    """List on how many ranks or devices a strategy is tried."""
    servers = STRATEGIES[strategy].count_servers(options)
    if servers:  # several workers do what one process does only where they wait for each other
        numbers = (2, 3, 1) if options["mode"] == "sync" else (1,)
        return [{"ranks": ranks} for ranks in numbers if ranks + servers <= 4]
    match STRATEGIES[strategy].processes:
        case ProcessLayout.ONE:
            return [{"ranks": 1}]
        case ProcessLayout.ONE_MANY_DEVICES:
            return [{"ranks": 1, "devices": devices} for devices in (2, 3)]
        case _:
            return [{"ranks": ranks} for ranks in (2, 3, 4)]


def shapes_of(strategy: str, options: dict[str, Any], places: dict[str, int]) -> list[Case]:
    """List the shapes of a strategy on that many ranks or devices; batches are odd where they can be."""
    base: dict[str, Any] = {"strategy": strategy, "options": options, **places}
    unit = options.get("micro_batches", 1)
    normalised = Case(**base, batch=5 * unit)
    plain = Case(**base, model="plain", batch=3 * unit)
    accumulated = Case(**base, batch=6 * unit, accumulation=3, steps=12)
    match max(places.values()):
        case 3:
            return [normalised]
        case 4:
            return [plain] if options == VARIANTS[strategy][-1] else []
    single = Case(**base, precision="fp32", steps=5, batch=5 * unit)
    every = [normalised, plain, accumulated, single]
    if strategy in LARGE and options == VARIANTS[strategy][-1]:
        every.append(Case(**base, model="resnet18", batch=2 * unit, steps=2))
    return every


def short_cases(
    variants: dict[str, list[dict[str, Any]]], *, places: slice = slice(1), **shape: Any
) -> list[Case]:
    """List cases of a few steps for each variant: on two ranks or devices, or wherever `places` says."""
    return [
        Case(strategy, options, **place, batch=4 * options.get("micro_batches", 1), **shape)
        for strategy, variants_of_one in variants.items()
        for options in variants_of_one
        for place in places_of(strategy, options)[places]
    ]


def resumed_cases() -> list[Case]:
    """List the cases that are stopped in the middle and resumed, on two and on three ranks or devices."""
    return short_cases(VARIANTS, places=slice(2), steps=8) + short_cases(INEXACT, precision="fp32", steps=8)


def inexact_cases() -> list[Case]:
    """List the cases that are compared with a reference that they need not reach."""
    return short_cases(INEXACT, precision="fp32", steps=10)


def overflowing_cases() -> list[Case]:
    """List the cases in which a gradient overflows on one rank only."""
    return short_cases(VARIANTS, model="plain", precision="amp_fp16", steps=4)


def build_model(shape: Shape, seed: int) -> nn.Module:
    """Return the net of a shape in the initial state of a seed."""
    torch.manual_seed(seed)
    if shape.model in ("batch_norm", "channels_last"):
        model: nn.Module = SmallConv(channels=2, classes=CLASSES)
        if shape.model == "channels_last":
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    elif shape.model == "resnet18":
        from hpcbench.tasks.resnet import resnet18  # seconds that most processes need not spend

        model = resnet18(channels=3, classes=CLASSES, stem="cifar")
    else:
        widths = (128, 33, 17, 11)
        hidden = [
            layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.Tanh())
        ]
        model = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(widths[-1], CLASSES))
    return model.to(shape.dtype)


def shard_batches(shape: Shape, step: int, splits: int | None = None) -> list[list[Batch]]:
    """Return the micro-batches of every shard for a step: what all ranks together see."""
    generator = torch.Generator().manual_seed(1000 + step)
    total, splits = shape.batch * shape.shards, splits or shape.splits
    images = torch.randn((total, *IMAGES[shape.model]), generator=generator, dtype=shape.dtype)
    labels = torch.randint(CLASSES, (total,), generator=generator)
    return [
        [Batch(x, y) for x, y in zip(i.chunk(splits), k.chunk(splits), strict=True)]
        for i, k in zip(images.split(shape.batch), labels.split(shape.batch), strict=True)
    ]


def evaluation_batches(shape: Shape) -> list[tuple[Batch, Tensor]]:
    """Return the evaluation batch of every shard and its mask; the last shard's last sample is padding."""
    generator = torch.Generator().manual_seed(7)
    size = (EVALUATED, *IMAGES[shape.model])
    batches = []
    for shard in range(shape.shards):
        images = torch.randn(size, generator=generator, dtype=shape.dtype)
        labels = torch.randint(CLASSES, (EVALUATED,), generator=generator)
        mask = torch.ones(EVALUATED, dtype=torch.bool)
        mask[-1] = shard < shape.shards - 1
        batches.append((Batch(images, labels), mask))
    return batches


def learning_rate(step: int) -> float:
    """A rate that changes, so that a strategy which ignores it is found out."""
    return LR * (1 - step / 100)
