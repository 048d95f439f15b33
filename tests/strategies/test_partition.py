"""Cutting a model into parts of equal cost."""

from __future__ import annotations

import itertools
import random
import time

import pytest
import torch
from torch import Tensor, nn

from hpcbench.strategies.model_partition import ModelPart, blocks_of, measure_blocks, partition_evenly
from hpcbench.tasks.task_registry import MODELS
from hpcbench.training.precision import RunPrecision

SIZE = 64  # pixels: the smallest at which ResNets normalise more than one value of a sample


def build(name: str, stem: str | None) -> nn.Module:
    """Return a model of the table."""
    torch.manual_seed(0)
    model: nn.Module = MODELS[name].load()(channels=3, classes=5, stem=stem)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_table_knows_how_many_blocks_a_model_has(name: str) -> None:
    """The number that sweeps are checked against is the model's own."""
    stems = MODELS[name].stems or (None,)
    assert [len(blocks_of(build(name, stem))) for stem in stems] == [MODELS[name].blocks] * len(stems)


@pytest.mark.parametrize("name", MODELS)
def test_table_knows_how_many_parameters_a_model_has(name: str) -> None:
    """The number from which disk is estimated is the model's own."""
    entry = MODELS[name]
    with torch.device("meta"):
        model = entry.load()(channels=3, classes=1000, stem=entry.stems[0] if entry.stems else None)
    assert sum(each.numel() for each in model.parameters()) == entry.parameters


@pytest.mark.parametrize(
    ("name", "stem"), [("smallconv", None), ("resnet18", "cifar"), ("resnet50", "imagenet")]
)
def test_parts_one_after_the_other_are_the_model(name: str, stem: str | None) -> None:
    """Outputs are bit-equal, and the parts' parameters have the names that they have in the whole model."""
    model = build(name, stem).eval()
    images = torch.randn(2, 3, SIZE, SIZE)
    blocks = blocks_of(model)
    parts = [ModelPart(blocks[: len(blocks) // 2]), ModelPart(blocks[len(blocks) // 2 :])]
    with torch.no_grad():
        assert torch.equal(parts[1](parts[0](images)), model(images))
    names = [key for part in parts for key in part.state_dict()]
    assert sorted(names) == sorted(model.state_dict())


def test_layers_without_parameters_belong_to_the_block_before() -> None:
    """Each block has something to train, whatever stands between."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 4), nn.ReLU(), nn.Tanh(), nn.Linear(4, 2), nn.Identity())
    assert [list(block) for block in blocks_of(model)] == [["0", "1", "2", "3"], ["4", "5"]]


def test_no_other_cut_has_a_cheaper_most_expensive_part() -> None:
    """The cut is as good as the best of all cuts tried one by one."""
    draw = random.Random(0)
    for _ in range(50):
        costs = [draw.choice([0.1, 1.0, 2.5, 7.0]) for _ in range(draw.randint(2, 9))]
        parts = draw.randint(1, len(costs))
        ranges = partition_evenly(costs, parts)
        assert [index for each in ranges for index in each] == list(range(len(costs)))
        assert all(ranges)
        best = min(
            max(sum(costs[a:b]) for a, b in itertools.pairwise((0, *inner, len(costs))))
            for inner in itertools.combinations(range(1, len(costs)), parts - 1)
        )
        assert max(sum(costs[index] for index in each) for each in ranges) == pytest.approx(best)


class Slow(nn.Module):
    """Takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, batch: Tensor) -> Tensor:
        time.sleep(0.03)
        return batch * self.weight


def test_cut_follows_measured_time_and_not_the_number_of_layers() -> None:
    """A layer that takes long is alone, however many others there are; and measuring leaves no traces."""
    model = nn.Sequential(*(nn.Linear(3, 3) for _ in range(6)), nn.BatchNorm1d(3), Slow())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    costs = measure_blocks(blocks_of(model), torch.randn(4, 3), RunPrecision("fp32", torch.device("cpu")))
    assert partition_evenly(costs.seconds, 2)[1] == range(7, 8)
    assert costs.shapes == [(3,)] * 8
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
