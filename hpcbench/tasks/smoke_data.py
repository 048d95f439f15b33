"""Generates small data sets in the real file formats, for `--smoke` and the tests, from two photographs in
scikit-learn. Imports no torch.
"""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.tasks import cifar_files
from hpcbench.tasks.shared_folders import mark_generated, share_path

SMOKE_SEED = 0
TRAIN_SAMPLES, EVALUATION_SAMPLES = 320, 80
FOLDER_CLASSES = 8
PICTURE_SIDES = (90, 160)  # of generated pictures
JPEG_QUALITY = 90


def make_smoke_data(
    name: str,
    folder: Path,
    *,
    train_samples: int = TRAIN_SAMPLES,
    evaluation_samples: int = EVALUATION_SAMPLES,
) -> None:
    """Write a small data set of that name into `folder`, once; whoever comes at the same time waits.

    `train_samples` is rounded up to what the format can hold. A data set that needs no files gets none.
    """
    if name in cifar_files.CIFAR_EDITIONS:
        made = share_path(
            folder, lambda path: _make_cifar(name, path, train_samples, evaluation_samples), keep=True
        )
    elif name in ("imagenet", "imagefolder"):
        made = share_path(
            folder, lambda path: _make_class_folders(path, train_samples, evaluation_samples), keep=True
        )
    else:
        return
    made.release()


def smoke_folder(spec: RunSpec, run: RunFolder) -> Path:
    """Return where the data of a scaled-down run are, beside the runs of its sweep; made where missing."""
    in_sweep = run.path.parent.parent.name == "runs"
    batches = 2 * (spec.steps_per_epoch or 1)
    samples = max(TRAIN_SAMPLES, batches * spec.samples_per_step)
    around = run.path.parents[2] if in_sweep else run.path
    folder = around / "smoke-data" / f"{spec.dataset}-{samples}"
    make_smoke_data(spec.dataset, folder, train_samples=samples)
    return folder


def photographs() -> list[NDArray[np.uint8]]:
    """Return a temple and a flower, 427 x 640, uint8 RGB."""
    from sklearn.datasets import load_sample_images

    return list(load_sample_images().images)


def crop_photograph(
    photographs: list[NDArray[np.uint8]],
    generator: np.random.Generator,
    label: int,
    classes: int,
    size: tuple[int, int],
) -> Image.Image:
    """Return a picture of (width, height): a random part of a place that belongs to the class."""
    photograph = photographs[label % len(photographs)]
    height, width = photograph.shape[:2]
    places = -(-classes // len(photographs))
    place = (label // len(photographs)) % places
    side = int(generator.integers(96, 160))
    left = int((width - side) * (place + generator.random()) / places)
    top = int(generator.integers(0, height - side))
    part = Image.fromarray(photograph[top : top + side, left : left + side])
    return part.resize(size, Image.Resampling.BILINEAR)


def _make_cifar(name: str, folder: Path, train_samples: int, evaluation_samples: int) -> None:
    edition = cifar_files.CIFAR_EDITIONS[name]
    generator, sources = np.random.default_rng(SMOKE_SEED), photographs()
    files = len(edition.train_files)
    each = -(-train_samples // files)
    (folder / edition.folder).mkdir(parents=True)
    lengths = [*(each for _ in edition.train_files), evaluation_samples]
    for file, length in zip((*edition.train_files, *edition.test_files), lengths, strict=True):
        labels = [int(label) for label in np.arange(length) % edition.classes]
        pictures = [
            np.asarray(
                crop_photograph(
                    sources,
                    generator,
                    label,
                    edition.classes,
                    (cifar_files.CIFAR_SIDE, cifar_files.CIFAR_SIDE),
                )
            )
            for label in labels
        ]
        rows = np.stack(pictures).transpose(0, 3, 1, 2).reshape(length, -1)
        write_cifar_file(folder / edition.folder / file, edition, rows, labels)
    mark_generated(folder, {"train": each * files, "test": evaluation_samples})


def write_cifar_file(
    path: Path, edition: cifar_files.CifarEdition, rows: NDArray[np.uint8], labels: list[int]
) -> None:
    """Write rows of 3,072 bytes the way CIFAR is distributed, in the pickle protocol of Python 2."""
    names = [b"generated_%d.png" % row for row in range(len(labels))]
    content = {b"data": rows, edition.label_key: labels, b"filenames": names, b"batch_label": b"generated"}
    with path.open("wb") as file:
        pickle.dump(content, file, protocol=2)


def _make_class_folders(folder: Path, train_samples: int, evaluation_samples: int) -> None:
    generator, sources = np.random.default_rng(SMOKE_SEED), photographs()
    for part, samples in (("train", train_samples), ("val", evaluation_samples)):
        for sample in range(samples):
            label = sample % FOLDER_CLASSES
            width, height = (int(side) for side in generator.integers(*PICTURE_SIDES, size=2))
            path = folder / part / f"n{label:08d}" / f"{part}_{sample:06d}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            crop_photograph(sources, generator, label, FOLDER_CLASSES, (width, height)).save(
                path, quality=JPEG_QUALITY
            )
    mark_generated(folder, {"train": train_samples, "test": evaluation_samples})
