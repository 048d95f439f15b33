"""`--smoke`: any run, scaled down so far that it ends in seconds on whatever machine this is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hpcbench.config.catalog import Catalog
from hpcbench.config.spec import Container, Precision, RunSpec

MAX_RANKS = 4
EPOCHS = 2
STEPS_PER_EPOCH = 2
BATCH_DIVISOR = 32  # 64, 128, 256, 512 become 2, 4, 8, 16
MIN_BATCH = 2  # batch normalisation needs two values
IMAGE_SIZE = 64
DECODED_SIZE = 74  # stands to 64 as 256 to 224
EVALUATION_BATCHES = 4
_WITHOUT_GPU: dict[Precision, Precision] = {"amp_fp16": "amp_bf16", "tf32": "fp32"}


def scaled_down(declared: RunSpec, catalog: Catalog, gpus: int) -> RunSpec:
    """Return what `--smoke` really does for a run, on a machine with that many GPUs.

    A run keeps its GPUs where the machine has enough for what is left of it, else it goes on the CPU. What is
    a strategy's own is scaled down by its entry in the catalog.
    """
    ranks = min(declared.ranks, MAX_RANKS)
    devices = min(declared.devices, max(1, MAX_RANKS // ranks))
    shards = ranks if declared.data_shards > 1 else 1
    batch = max(min(declared.batch_size, MIN_BATCH), declared.batch_size // BATCH_DIVISOR)
    on_gpus = declared.device == "cuda" and ranks * devices + declared.servers <= gpus
    run = declared if on_gpus else _on_cpu(declared)
    used = ranks * devices + declared.servers if on_gpus else 0
    small = replace(
        run,
        ranks=ranks,
        devices=devices,
        data_shards=shards,
        updates_per_step=shards if declared.updates_per_step > 1 else 1,
        batch_size=batch,
        accumulation=next(each for each in range(min(run.accumulation, batch), 0, -1) if batch % each == 0),
        dataset_options=_small_data(declared, batch * shards),
        epochs=EPOCHS,
        steps=None,
        steps_per_epoch=STEPS_PER_EPOCH,
        warmup_steps=min(declared.warmup_steps, 1),
        window_steps=min(declared.window_steps, STEPS_PER_EPOCH),
        repeat=0,
        compile=False,  # takes longer than all the rest
        input=replace(declared.input, stage=None),
        smoke=True,
        declared_id=declared.run_id,
        resources=replace(declared.resources, nodes=1, gpus_per_node=used),
        container=Container(),
    )
    return catalog.strategies[run.strategy].smoke(small)


def _on_cpu(run: RunSpec) -> RunSpec:
    return replace(
        run,
        device="cpu",
        backend="gloo" if run.backend else None,
        precision=_WITHOUT_GPU.get(run.precision, run.precision),
    )


def _small_data(run: RunSpec, samples_per_step: int) -> dict[str, Any]:
    """Shrink what a data set lets its options say: pixels, and no more samples than are looked at."""
    smallest = {
        "image_size": IMAGE_SIZE,
        "decoded_size": DECODED_SIZE,
        "samples": EPOCHS * STEPS_PER_EPOCH * samples_per_step,
        "evaluation_samples": EVALUATION_BATCHES * samples_per_step,
    }
    return {
        key: min(value, smallest[key]) if key in smallest and value is not None else value
        for key, value in run.dataset_options.items()
    }
