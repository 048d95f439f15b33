"""Which samples a rank sees."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits

from hpcbench.tasks.batches import Batch, LabelledDataset, Shard, ShardLoader
from hpcbench.tasks.in_memory_datasets import read_rows
from hpcbench.tasks.task_registry import DATASETS, SyntheticOptions

CPU = torch.device("cpu")


def _dataset(name: str, **arguments: Any) -> LabelledDataset:
    dataset: LabelledDataset = DATASETS[name].load()(device=CPU, dtype=torch.float32, **arguments)
    return dataset


def _loader(
    dataset: LabelledDataset, shard: int, shards: int, batch_size: int, accumulation: int = 1
) -> ShardLoader:
    return ShardLoader(dataset, Shard(shard, shards), batch_size, accumulation, seed=3)


def _whole(batches: list[Batch]) -> torch.Tensor:
    return torch.cat([batch.images for batch in batches])


def test_table_states_the_size_of_the_embedded_data() -> None:
    """The login node plans with the table, the ranks with the data: they agree."""
    entry, dataset = DATASETS["digits"], _dataset("digits")
    assert (entry.train_samples, entry.evaluation_samples) == (
        dataset.train_samples,
        dataset.evaluation_samples,
    )
    image = dataset.train_batch(torch.tensor([0]), 0).images
    assert image.shape == (1, entry.channels, entry.image_size, entry.image_size)


def test_digits_are_those_of_scikit_learn() -> None:
    """The file that is read directly holds what scikit-learn's own function returns."""
    bunch = load_digits()
    rows = read_rows()
    assert torch.equal(rows[:, :-1].reshape(-1, 8, 8), torch.from_numpy(bunch.images))
    assert torch.equal(rows[:, -1].long(), torch.from_numpy(bunch.target).long())


def test_digits_are_split_without_overlap() -> None:
    """No image of the validation set is in the training set."""
    dataset = _dataset("digits")
    training = dataset.train_batch(torch.arange(dataset.train_samples), 0).images.flatten(1)
    validation = dataset.evaluation_batch(torch.arange(dataset.evaluation_samples)).images.flatten(1)
    assert torch.cdist(validation, training).min() > 0


@pytest.mark.parametrize("name", ["digits", "synthetic"])
@pytest.mark.parametrize("shards", [1, 2, 4])
def test_global_batch_is_the_same_for_any_number_of_shards(name: str, shards: int) -> None:
    """The shards of a step, put together, are the global batch of a single process, in the same order."""
    arguments: dict[str, Any] = {}
    if name == "synthetic":
        arguments = {"samples_per_step": 8, "seed": 3, "options": SyntheticOptions(samples=100, image_size=8)}
    dataset = _dataset(name, **arguments)
    alone = _loader(dataset, 0, 1, 8).train(1, range(4))
    together = [_loader(dataset, shard, shards, 8 // shards).train(1, range(4)) for shard in range(shards)]
    for expected, *parts in zip(alone, *together, strict=True):
        assert torch.equal(torch.cat([_whole(part) for part in parts]), _whole(expected))


def test_micro_batches_are_the_batch_cut_up() -> None:
    """Accumulation changes how a batch is computed, not what is in it."""
    dataset = _dataset("digits")
    whole = next(_loader(dataset, 1, 2, 12).train(0, range(1)))
    parts = next(_loader(dataset, 1, 2, 12, accumulation=3).train(0, range(1)))
    assert [len(part.labels) for part in parts] == [4, 4, 4]
    assert torch.equal(_whole(parts), _whole(whole))


def test_epochs_drop_different_remainders() -> None:
    """What floor(N / batch) leaves out is not always the same."""
    dataset = _dataset("digits")
    loader = _loader(dataset, 0, 1, 1000)
    first, second = (_whole(next(loader.train(epoch, range(1)))) for epoch in (0, 1))
    assert not torch.equal(first.sum(0), second.sum(0))


@pytest.mark.parametrize(("shards", "batch_size"), [(1, 64), (2, 32), (3, 50), (4, 360)])
def test_evaluation_counts_every_sample_once(shards: int, batch_size: int) -> None:
    """Over all shards each validation sample counts once, and all shards do equally many batches."""
    dataset = _dataset("digits")
    seen, lengths = [], []
    for shard in range(shards):
        batches = list(_loader(dataset, shard, shards, batch_size).evaluation())
        lengths.append(len(batches))
        seen += [batch.images[mask] for batch, mask in batches]
    expected = dataset.evaluation_batch(torch.arange(dataset.evaluation_samples)).images
    got = torch.cat(seen)
    assert len(set(lengths)) == 1
    assert len(got) == len(expected)
    assert torch.equal(got.sum(0), expected.sum(0)) or torch.allclose(
        got.double().sum(0), expected.double().sum(0)
    )
    assert len(torch.unique(got.flatten(1), dim=0)) == len(torch.unique(expected.flatten(1), dim=0))


def test_synthetic_batches_rotate() -> None:
    """Eight different batches come in turn, and the ninth is the first again."""
    options = SyntheticOptions(samples=1000, image_size=4)
    dataset = _dataset("synthetic", samples_per_step=10, seed=0, options=options)
    batches = [_whole(step) for step in _loader(dataset, 0, 1, 10).train(0, range(9))]
    assert torch.equal(batches[0], batches[8])
    assert len({batch.sum().item() for batch in batches[:8]}) == 8
