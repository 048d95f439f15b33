"""Small data sets in the real formats, and loaders over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from hpcbench.runs.placement import Placement
from hpcbench.sweep.run_spec import InputOptions, RunSpec
from hpcbench.tasks.batches import Shard, ShardLoader
from hpcbench.tasks.image_pipeline import ImageDataset
from hpcbench.tasks.smoke_data import make_smoke_data
from hpcbench.tasks.task_registry import DATASETS
from hpcbench.training.training_run import load_dataset

GLOBAL_BATCH = 32
Load = Callable[..., ImageDataset]


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small data set of each name."""
    root = tmp_path_factory.mktemp("generated")
    for name in ("cifar10", "cifar100", "imagenet"):
        make_smoke_data(name, root / name, train_samples=120, evaluation_samples=30)
    return root


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Indexes and decoded images of a test are its own."""
    monkeypatch.setenv("HPCBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def load(tmp_path: Path) -> Iterator[Load]:
    """Load a data set as a rank does; what it leaves is removed at the end of the test."""
    loaded: list[ImageDataset] = []

    def load_one(name: str, folder: Path, *, rank: int = 0, **fields: Any) -> ImageDataset:
        dataset: Any = load_dataset(
            spec_of(name, **fields), torch.device("cpu"), torch.float32, place(tmp_path, folder, rank)
        )
        loaded.append(dataset)
        return dataset

    yield load_one
    for each in loaded:
        each.all_ranks_loaded()
        each.close()


def spec_of(name: str, *, options: dict[str, Any] | None = None, **fields: Any) -> RunSpec:
    """Describe a run on a data set; `workers`, `disk_cache` and `stage` go to its input."""
    given = {key: fields.pop(key) for key in ("workers", "disk_cache", "stage") if key in fields}
    entry = DATASETS[name]
    return RunSpec(
        name="n",
        strategy="single_gpu",
        dataset=name,
        dataset_options=asdict(entry.options(**(options or {}))),
        input=InputOptions(**{"workers": 0, **given}),
        **{"seed": 3, "batch_size": GLOBAL_BATCH, **fields},
    )


def place(run_folder: Path, data: Path, rank: int = 0) -> Placement:
    """Describe a rank's place."""
    return Placement(
        run_folder=str(run_folder),
        attempt=1,
        rank=rank,
        processes=1,
        local_rank=rank,
        threads=2,
        data=str(data),
        process_start_ns=0,
    )


def images_of(dataset: ImageDataset, epoch: int, shard: int = 0, shards: int = 1) -> torch.Tensor:
    """Return what a shard trains on in an epoch, [steps, samples, channels, height, width]."""
    loader = ShardLoader(dataset, Shard(shard, shards), GLOBAL_BATCH // shards, 1, seed=3)
    steps = range(dataset.train_samples // GLOBAL_BATCH)
    return torch.stack([batch.images for (batch,) in loader.train(epoch, steps)])
