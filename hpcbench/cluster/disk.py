"""What runs may take on disk, from their descriptions alone: said before anything is queued."""

from __future__ import annotations

import math

from hpcbench.config.catalog import Catalog
from hpcbench.config.spec import RunSpec
from hpcbench.training.checkpoint import KEPT

# Bytes of JSON lines and of logs as runs write them, rounded up; a test holds them against real runs.
RUN_BYTES = 16_000  # specification, claim, rendezvous, log
PROCESS_BYTES = 6_000  # its first record and its last, its log
EPOCH_BYTES = 1_200  # the epoch, its evaluation, its checks
WINDOW_BYTES = 1_000
CHECKPOINT_HEAD_BYTES = 64_000  # names, shapes, the state of random numbers

FLOAT_BYTES = {"fp64": 8}
UNITS = ("bytes", "KB", "MB", "GB", "TB", "PB")


def disk_bytes(spec: RunSpec, catalog: Catalog) -> int:
    """Return the bytes that a run leaves at most: records, checkpoints that may be due, weights to be saved.

    What can't be counted from here, the steps of a data set whose size only its files tell, counts nothing.
    """
    return _records(spec, catalog) + _states(spec, catalog)


def _records(spec: RunSpec, catalog: Catalog) -> int:
    samples = catalog.datasets[spec.dataset].train_samples or spec.dataset_options.get("samples")
    per_epoch = max(1, samples // spec.samples_per_step) if samples else None
    steps = spec.steps or (per_epoch or 0) * (spec.epochs or 0)
    epochs = spec.epochs or (math.ceil(steps / per_epoch) if per_epoch else 0)
    # An epoch's end cuts a window short, and warm-up has windows of its own.
    windows = math.ceil(steps / spec.window_steps) + epochs + 2
    of_process = PROCESS_BYTES + epochs * EPOCH_BYTES + windows * WINDOW_BYTES
    return RUN_BYTES + spec.processes * of_process


def _states(spec: RunSpec, catalog: Catalog) -> int:
    """Count whole models. Every rank keeps what it holds; for sharded strategies this is too much."""
    if catalog.strategies[spec.strategy].torch_free:
        return 0
    model = catalog.models[spec.model].parameters * FLOAT_BYTES.get(spec.precision, 4)
    kept = 0 if spec.checkpoint == "none" else KEPT * spec.processes
    with_momentum = 2 if spec.optimizer.momentum else 1
    return kept * (with_momentum * model + CHECKPOINT_HEAD_BYTES) + spec.save_weights * model


def written(size_bytes: int) -> str:
    """Write a number of bytes as people do, such as `1.2 GB`."""
    power = min(int(math.log(max(size_bytes, 1), 1000)), len(UNITS) - 1)
    return f"{size_bytes / 1000**power:.3g} {UNITS[power]}"
