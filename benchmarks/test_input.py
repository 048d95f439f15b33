"""The input pipeline against what it feeds and against what it is made of; ratios of figures of one run.

Others may use the machine: things that are compared are measured in turn, many times and shortly, a ratio is
the median of all rounds, and the load is printed.
"""

from __future__ import annotations

import io
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from hpcbench.runs.placement import Placement
from hpcbench.strategies.strategy_base import Strategy
from hpcbench.strategies.world import World
from hpcbench.sweep.run_spec import InputOptions, Optimizer, RunSpec
from hpcbench.tasks.batches import Batch, Shard, ShardLoader
from hpcbench.tasks.cifar_files import CIFAR_EDITIONS
from hpcbench.tasks.decode_workers import DecodeRequest
from hpcbench.tasks.image_augmentation import AugmentationSeed, CropAndFlip, NormaliseImages
from hpcbench.tasks.image_pipeline import ImageDataset
from hpcbench.tasks.picture_decoding import make_torchvision_importable
from hpcbench.tasks.shared_folders import mark_generated
from hpcbench.tasks.smoke_data import crop_photograph, make_smoke_data, photographs
from hpcbench.tasks.task_registry import DATASETS, MODELS, TRAIN
from hpcbench.training.precision import RunPrecision
from hpcbench.training.training_run import build_optimizer, load_dataset

ROOT = Path(__file__).parents[1]
GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
CORES = len(os.sched_getaffinity(0))
PICTURES = 768
STUDY_IMG_S, AIRBENCH_RESNET18_IMG_S = 7868, 23_000  # published: 1 x RTX 4090 (study 2); 1 x A100


def _load(name: str, root: Path, run: Path, **fields: Any) -> ImageDataset:
    options = asdict(DATASETS[name].options(**fields.pop("options", {})))
    given = {key: fields.pop(key) for key in ("workers", "disk_cache") if key in fields}
    spec = RunSpec(
        name="n",
        strategy="single_gpu",
        dataset=name,
        dataset_options=options,
        input=InputOptions(**given),
        **{"batch_size": 128, **fields},
    )
    place = Placement(
        run_folder=str(run),
        attempt=1,
        rank=0,
        processes=1,
        local_rank=0,
        threads=CORES,
        data=str(root),
        process_start_ns=0,
    )
    dataset: Any = load_dataset(spec, DEVICE, torch.float32, place)
    return dataset


def _wait() -> None:
    if GPU:
        torch.cuda.synchronize()


def _rate(work: Callable[[], int]) -> float:
    """Return what was done in a second."""
    _wait()
    began = time.perf_counter()
    done = work()
    _wait()
    return done / (time.perf_counter() - began)


@dataclass(frozen=True)
class Comparison:
    """Rates of two things that were measured in turn: the best of each, and the median of their ratios."""

    first: float
    second: float
    ratio: float


def _compare(rounds: int, first: Callable[[], int], second: Callable[[], int]) -> Comparison:
    """Measure two things in turn, so that both see the same neighbours."""
    first(), second()
    rates = [(_rate(first), _rate(second)) for _ in range(rounds)]
    ratio = statistics.median(one / other for one, other in rates)
    return Comparison(max(one for one, _ in rates), max(other for _, other in rates), ratio)


def _say(text: str) -> None:
    print(f"\n{text} (load {os.getloadavg()[0]:.1f} on {CORES} cores)")


@pytest.fixture(scope="module", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Indexes and decoded images of this run are its own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder of JPEGs of ImageNet's usual 500 x 375."""
    root = tmp_path_factory.mktemp("pictures")
    generator, sources = np.random.default_rng(0), photographs()
    for part, count in (("train", PICTURES), ("val", 8)):
        for number in range(count):
            path = root / part / f"class{number % 8}" / f"{number:05d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            crop_photograph(sources, generator, number % 8, 8, (500, 375)).save(path, quality=90)
    return root


def _trainer(model: torch.nn.Module, precision: Any) -> Callable[[Batch], int]:
    strategy = Strategy(World(0, 1, 1, DEVICE), RunPrecision(precision, DEVICE), None)
    strategy.prepare(model.to(DEVICE), lambda parameters: build_optimizer(Optimizer(lr=0.01), parameters))

    def train(batch: Batch) -> int:
        strategy.forward_backward([batch])
        strategy.update(0.01)
        return len(batch.labels)

    return train


def test_cifar_from_the_device_keeps_up_with_a_fixed_batch(tmp_path: Path) -> None:
    """Cached, cropped, mirrored and normalised images train at 0.95 of the rate on a fixed batch, or faster.

    On a GPU that is ResNet-18 with the CIFAR stem in bf16, channels_last; on a CPU a model that is fast
    enough for its input to matter.
    """
    name, precision, size = ("resnet18", "amp_bf16", 512) if GPU else ("smallconv", "fp32", 128)
    make_smoke_data("cifar100", tmp_path / "data", train_samples=size * 8, evaluation_samples=8)
    fields: dict[str, Any] = {"cache": "device", "batch_size": size, "channels_last": GPU}
    dataset = _load("cifar100", tmp_path / "data", tmp_path, **fields)
    model = MODELS[name].load()(channels=3, classes=100, stem="cifar")
    train = _trainer(model.to(memory_format=torch.channels_last) if GPU else model, precision)
    fixed = dataset.train_batch(torch.arange(size), 0)
    loader = ShardLoader(dataset, Shard(0, 1), size, 1, seed=0)
    epochs, steps = iter(range(1000)), 8 if GPU else 2
    repeats = 5 if GPU else 1

    def from_cache() -> int:
        stream = (batch for _ in range(repeats) for (batch,) in loader.train(next(epochs), range(steps)))
        return sum(train(batch) for batch in stream)

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two threads wait for each other whenever somebody else has a core
    seen = _compare(24, from_cache, lambda: sum(train(fixed) for _ in range(repeats * steps)))
    torch.set_num_threads(threads)
    dataset.close()
    _say(
        f"CIFAR-100 {name} {precision} batch {size}: {seen.first:,.0f} img/s with cache device, "
        f"{seen.second:,.0f} on a fixed batch: ratio {seen.ratio:.3f}; published for ResNet-18: "
        f"{STUDY_IMG_S:,} (1 x RTX 4090) and {AIRBENCH_RESNET18_IMG_S:,} (1 x A100)"
    )
    assert seen.ratio >= 0.95


def test_batched_augmentation_beats_one_image_at_a_time() -> None:
    """Crop, mirror and normalise of a batch: 8 times torchvision v2's rate on a CPU, 100 times on a GPU."""
    make_torchvision_importable()
    from torchvision.transforms import v2

    size = 512
    images = torch.randint(0, 256, (size, 32, 32, 3), dtype=torch.uint8, device=DEVICE)
    edition = CIFAR_EDITIONS["cifar100"]
    normalise = NormaliseImages(edition.mean, edition.deviation, torch.float32, channels_last=False)
    one_by_one = v2.Compose(
        [
            v2.RandomCrop(32, padding=4),
            v2.RandomHorizontalFlip(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(edition.mean, edition.deviation),
        ]
    )
    rows = images.permute(0, 3, 1, 2).contiguous()
    augment, samples = CropAndFlip(4), torch.arange(size)

    def ours() -> int:
        for epoch in range(8):
            normalise(augment(images, samples, AugmentationSeed(0, epoch)))
        return 8 * size

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # both on one core: the ratio is that of the work, not of the cores
    seen = _compare(9, ours, lambda: len(torch.stack([one_by_one(row) for row in rows])))
    torch.set_num_threads(threads)
    _say(
        f"augmentation of 32 x 32: {seen.first:,.0f} img/s in batches, {seen.second:,.0f} one by one with "
        f"torchvision v2: {seen.ratio:.1f} x"
    )
    assert seen.ratio >= (100 if GPU else 8)


def _requests(epoch: int, batch: int = 128) -> list[DecodeRequest]:
    order = torch.randperm(PICTURES, generator=torch.Generator().manual_seed(epoch))
    return [DecodeRequest(TRAIN, samples, AugmentationSeed(0, epoch)) for samples in order.split(batch)]


def _host_rate_of(dataset: ImageDataset) -> Callable[[], int]:
    """Return an epoch of the pipeline up to uint8 batches on the host, before the device's part."""
    epochs = iter(range(1000))
    return lambda: sum(len(done.labels) for done in dataset._workers.stream(_requests(next(epochs))))


_held: list[ImageDataset] = []


def _hold(dataset: ImageDataset) -> None:
    torch.set_num_threads(1)
    _held.append(dataset)


def _decode_held(samples: range) -> int:
    return _decode_alone(_held[0], samples)


def _decode_alone(dataset: ImageDataset, samples: range) -> int:
    done = dataset._decoders[TRAIN].decode(torch.tensor(samples), AugmentationSeed(0, samples.start))
    return len(done.labels)


def test_folder_loading_uses_all_cores(pictures: Path, tmp_path: Path) -> None:
    """Batches come at 0.9 of the rate, or faster, at which all cores read, decode and crop on their own.

    That is cores x the rate of a single core while the others are as busy: processes that decode and keep
    nothing. What one core does in a second of its own processor time is printed beside it.
    """
    alone = _load("imagefolder", pictures, tmp_path, workers=0)
    loader = _load("imagefolder", pictures, tmp_path, workers=CORES)
    torch.set_num_threads(1)
    began = time.process_time()
    single = _decode_alone(alone, range(256)) / (time.process_time() - began)
    pieces = [range(first, first + 32) for first in range(0, PICTURES, 32)]
    with multiprocessing.get_context("fork").Pool(CORES, _hold, (alone,)) as pool:
        seen = _compare(12, _host_rate_of(loader), lambda: sum(pool.imap_unordered(_decode_held, pieces)))
    loader.close()
    _say(
        f"500 x 375 JPEG to 224: {seen.first:,.0f} img/s from {CORES} workers, {seen.second:,.0f} on {CORES} "
        f"cores on their own: ratio {seen.ratio:.2f}; one core alone {single:,.0f} per second of its time"
    )
    assert seen.ratio >= 0.9


def test_disk_cache_beats_decoding(pictures: Path, tmp_path: Path) -> None:
    """Images decoded to 256 come 8 times as fast from the cache on disk as from their JPEGs, or faster."""
    options = {"decoded_size": 256}
    decoding = _load("imagefolder", pictures, tmp_path, options=options, workers=CORES)
    cached = _load("imagefolder", pictures, tmp_path, options=options, workers=0, disk_cache=True)
    seen = _compare(5, _host_rate_of(cached), _host_rate_of(decoding))
    for each in (decoding, cached):
        each.close()
    _say(
        f"256 x 256 from the disk cache on one core: {seen.first:,.0f} img/s, from JPEG on {CORES} cores: "
        f"{seen.second:,.0f}: {seen.ratio:.1f} x"
    )
    assert seen.ratio >= 8


def test_four_ranks_hold_one_copy(tmp_path: Path) -> None:
    """The resident sets of four ranks add up to one copy of CIFAR's 150 MB of pixels."""
    samples, pixels = 50_000, 50_000 * 32 * 32 * 3
    command = [sys.executable, "-m", "tests.data.rank", "memory", str(tmp_path)]
    pipe = subprocess.PIPE
    ranks = [
        subprocess.Popen([*command, str(rank), str(samples)], cwd=ROOT, stdin=pipe, stdout=pipe, text=True)
        for rank in range(4)
    ]
    facts = [json.loads(rank.stdout.readline()) for rank in ranks if rank.stdout]
    for rank in ranks:
        rank.communicate("\n\n", timeout=60)
    resident = [fact["resident_bytes"] / 1e6 for fact in facts]
    own = [fact["proportional_bytes"] / 1e6 for fact in facts]
    _say(
        f"cache memory, 4 ranks, {pixels / 1e6:.0f} MB of pixels: resident "
        f"{', '.join(f'{each:.0f}' for each in resident)} MB, of which each one's share is "
        f"{', '.join(f'{each:.0f}' for each in own)}: {sum(own):.0f} MB in all"
    )
    assert sum(own) * 1e6 < 1.1 * pixels


def test_index_of_a_large_folder_opens_at_once(tmp_path: Path) -> None:
    """From the second start on, 20,000 files are not looked at any more: 5 times as fast as listing them."""
    from hpcbench.tasks import image_layouts

    root, past = tmp_path / "large", time.time() - 60
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "JPEG")
    source = tmp_path / "one.jpg"
    source.write_bytes(buffer.getvalue())
    for label in range(40):
        folder = root / "train" / f"class{label:03d}"
        folder.mkdir(parents=True)
        for number in range(500):
            (folder / f"{number:06d}.jpg").hardlink_to(source)
        os.utime(folder, (past, past))
    os.utime(root / "train", (past, past))
    mark_generated(root, {"train": 20_000, "test": 0})

    def open_index() -> float:
        began = time.perf_counter()
        assert (
            len(image_layouts.open_image_part("imagefolder", root, "train", skip_strangers=False)) == 20_000
        )
        return time.perf_counter() - began

    first = open_index()
    later = min(open_index() for _ in range(3))
    _say(f"index of 20,000 files: {1e3 * first:.0f} ms listed, {1e3 * later:.1f} ms from the cache")
    assert later < first / 5
