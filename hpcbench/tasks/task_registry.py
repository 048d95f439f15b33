"""The registries of data sets and models that a sweep may name, with the options of each data set.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from hpcbench.sweep.catalog_entries import DatasetEntry, ModelEntry

if TYPE_CHECKING:
    from hpcbench.sweep.run_spec import RunSpec


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
    """Say why the run can't have its data this way."""
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
    # The sizes of the embedded data are facts that a test holds against the data itself.
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
            needs_files=True,
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
        needs_files=True,
        check=_refuse_folder_run,
    ),
    "imagefolder": DatasetEntry(
        target="hpcbench.tasks.image_datasets:load_folder_dataset",
        options=FolderOptions,
        unit="img",
        image_size=224,
        needs_files=True,
        check=_refuse_folder_run,
    ),
    "faulty_digits": DatasetEntry(
        target="hpcbench.teaching.faulty_digits:load_faulty_digits_dataset",
        options=FaultyDigitsOptions,
        unit="img",
        channels=1,
        image_size=8,
        train_samples=1437,
        evaluation_samples=360,
        teaching=True,
    ),
}


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
