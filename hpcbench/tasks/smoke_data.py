"""Generates small data sets in the real file formats, for `--smoke` and the tests, from two photographs in
scikit-learn. Imports no torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hpcbench.runs.results_folder import RunFolder
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.tasks.shared_folders import share_path
from hpcbench.tasks.task_registry import dataset_files

SMOKE_SEED = 0
TRAIN_SAMPLES, EVALUATION_SAMPLES = 320, 80


def make_smoke_data(
    name: str,
    folder: Path,
    *,
    train_samples: int = TRAIN_SAMPLES,
    evaluation_samples: int = EVALUATION_SAMPLES,
) -> None:
    """Write a small data set of that name into `folder`, once; other processes wait for the first.

    `train_samples` is rounded up to what the format can hold. A data set that needs no files gets none.
    """
    files = dataset_files(name)
    if files is not None:
        share_path(
            folder, lambda path: files.generate(path, train_samples, evaluation_samples), keep=True
        ).release()


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
