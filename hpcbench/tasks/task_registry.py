"""The registries of data sets and models that a sweep may name, with the options of each data set.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Protocol

from annotated_types import Ge, Gt, Le

from hpcbench.sweep.catalog_entries import DatasetEntry, ModelEntry, load_target
from hpcbench.sweep.run_spec import RunSpec

TRAIN, EVALUATION = "train", "evaluation"  # the parts of a data set


class DatasetFiles(Protocol):
    """What can be done with the files of the data set `name` without torch."""

    def __init__(self, name: str) -> None: ...

    def inspect(
        self, folder: Path, part: str, *, decode: bool = False, skip_non_images: bool = False
    ) -> tuple[int, list[str]]:
        """Return the number of samples of a part (TRAIN or EVALUATION) and what is wrong with them.

        `decode` tries every picture. Raises HpcbenchError where the part is missing or broken.
        """

    def download_commands(self, target: str) -> list[str]:
        """Return shell commands that fetch the data set into a folder, with checksums."""

    def generate(self, folder: Path, train_samples: int, evaluation_samples: int) -> None:
        """Write a small data set of the same format, for `--smoke` and tests."""


@dataclass(frozen=True, kw_only=True)
class SyntheticOptions:
    """The shape of random data; `samples` is what an epoch pretends to have."""

    channels: Annotated[int, Ge(1), Le(16)] = 3
    image_size: Annotated[int, Ge(4), Le(2048)] = 32
    classes: Annotated[int, Ge(2), Le(100_000)] = 100
    samples: Annotated[int, Gt(0), Le(10**9)] = 50_000
    evaluation_samples: Annotated[int, Gt(0), Le(10**9)] = 10_000


@dataclass(frozen=True, kw_only=True)
class FolderOptions:
    """How pictures become images of `image_size` x `image_size`; all of it changes what is learnt.

    `decoded_size` first brings the square in the middle of each picture to that many pixels: that can be
    cached, whole pictures differ in size and can't. `decode: draft` may decode large JPEGs at a half, quarter
    or eighth. `corrupt: replace` lets the next image stand in for one that can't be decoded.
    """

    image_size: Annotated[int, Ge(16), Le(2048)] = 224
    decoded_size: Annotated[int, Ge(16), Le(4096)] | None = None
    decode: Literal["full", "draft"] = "full"
    corrupt: Literal["stop", "replace"] = "stop"


@dataclass(frozen=True, kw_only=True)
class FaultyDigitsOptions:
    """Which mistake the input pipeline makes; `decode_ms` is what it spends on a sample."""

    mistake: Literal["forgetful_cache", "decodes_everything"] = "forgetful_cache"
    decode_ms: Annotated[float, Ge(0), Le(1000)] = 0.1


def _refuse_folder_run(spec: RunSpec) -> str | None:
    """Return why a run cannot use folders of images this way, or None."""
    size = spec.dataset_options["decoded_size"]
    if size is None and (spec.cache != "none" or spec.input.disk_cache):
        what = "input.disk_cache" if spec.input.disk_cache else f"cache: {spec.cache}"
        return f"{what} needs images of one size. Say dataset_options: {{decoded_size: 256}}, or cache: none"
    if size is not None and size < spec.dataset_options["image_size"]:
        return f"decoded_size {size} is smaller than image_size {spec.dataset_options['image_size']}"
    return None


def _refuse_disk_cache(spec: RunSpec) -> str | None:
    return "input.disk_cache is for data sets of encoded pictures" if spec.input.disk_cache else None


DATASETS: dict[str, DatasetEntry] = {
    # A test compares the sizes of the embedded data with the data itself.
    "digits": DatasetEntry(
        target="hpcbench.tasks.in_memory_datasets:load_digits",
        unit="img",
        channels=1,
        image_size=8,
        train_samples=1437,
        evaluation_samples=360,
    ),
    "synthetic": DatasetEntry(
        target="hpcbench.tasks.in_memory_datasets:load_synthetic_dataset",
        options=SyntheticOptions,
        unit="img",
    ),
    **{
        name: DatasetEntry(
            target="hpcbench.tasks.image_datasets:load_cifar_dataset",
            unit="img",
            image_size=32,
            train_samples=50_000,
            evaluation_samples=10_000,
            files="hpcbench.tasks.cifar_files:CifarFiles",
            check=_refuse_disk_cache,
        )
        for name in ("cifar10", "cifar100")
    },
    "imagenet": DatasetEntry(
        target="hpcbench.tasks.image_datasets:load_folder_dataset",
        options=FolderOptions,
        unit="img",
        image_size=224,
        train_samples=1_281_167,
        evaluation_samples=50_000,
        files="hpcbench.tasks.image_layouts:ImageFiles",
        check=_refuse_folder_run,
    ),
    "imagefolder": DatasetEntry(
        target="hpcbench.tasks.image_datasets:load_folder_dataset",
        options=FolderOptions,
        unit="img",
        image_size=224,
        files="hpcbench.tasks.image_layouts:ImageFiles",
        check=_refuse_folder_run,
    ),
    "faulty_digits": DatasetEntry(
        target="hpcbench.teaching.faulty_methods:load_faulty_digits_dataset",
        options=FaultyDigitsOptions,
        unit="img",
        channels=1,
        image_size=8,
        train_samples=1437,
        evaluation_samples=360,
        teaching=True,
    ),
}


def dataset_files(name: str) -> DatasetFiles | None:
    """Return the files of a data set; None where it needs none."""
    target = DATASETS[name].files
    files: DatasetFiles | None = load_target(target)(name) if target else None
    return files


MODELS: dict[str, ModelEntry] = {
    "smallconv": ModelEntry(target="hpcbench.tasks.smallconv:SmallConv", parameters=222_472, blocks=4),
    **{
        name: ModelEntry(
            target=f"hpcbench.tasks.resnet:{name}",
            parameters=parameters,
            blocks=blocks,
            stems=("imagenet", "cifar"),
            input_channels=3,
        )
        for name, parameters, blocks in (
            ("resnet18", 11_689_512, 10),
            ("resnet34", 21_797_672, 18),
            ("resnet50", 25_557_032, 18),
        )
    },
}
