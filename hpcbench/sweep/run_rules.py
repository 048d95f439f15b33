"""Rules about combinations of fields in one run."""

from __future__ import annotations

from pathlib import PurePosixPath

from hpcbench.errors import InputError
from hpcbench.sweep.catalog_entries import Catalog, DatasetEntry, StrategyEntry
from hpcbench.sweep.run_spec import RunSpec
from hpcbench.sweep.setting_layers import RunDraft

MAX_SEED = 2**31 - 1
_NEEDS_GPU = {"tf32": "fp32", "amp_fp16": "amp_bf16"}  # and what a CPU has instead
_GPU_HINT = "resources: {gpus_per_node: N}"


def check_run(spec: RunSpec, draft: RunDraft, catalog: Catalog) -> None:
    """Raise InputError for a run with fields that contradict each other."""
    if spec.device == "cpu":
        _check_cpu(spec, draft)
    else:
        _check_gpus(spec, draft)
    _check_container(spec, draft)
    _check_data(spec, draft, catalog)
    if spec.batch_size % spec.accumulation:
        raise draft.error(
            "accumulation",
            f"accumulation does not split the batch of {spec.batch_size} of each rank evenly",
            found=spec.accumulation,
            hint=f"The nearest that does is {_nearest_divisor(spec.batch_size, spec.accumulation)}",
        )
    last_seed = spec.seed + int(draft.values["repeats"]) - 1
    if last_seed > MAX_SEED:
        raise draft.error(
            "seed",
            f"the last repeat's seed would be {last_seed}",
            found=spec.seed,
            allowed=f"up to {MAX_SEED}",
        )
    _check_parts(spec, draft, catalog)
    dataset, strategy = catalog.datasets[spec.dataset], catalog.strategies[spec.strategy]
    reason = _refuse_teaching(spec, dataset) or dataset.check(spec)
    if reason:
        raise draft.error("dataset", f"data set {spec.dataset}: {reason}")
    if spec.compile and not strategy.can_compile:
        raise draft.error(
            "compile",
            f"the model of strategy {spec.strategy} cannot be compiled: its parts run on several devices",
            found=True,
        )
    reason = _refuse_teaching(spec, strategy) or strategy.check(spec)
    if reason:
        raise draft.error("strategy", f"strategy {spec.strategy}: {reason}")


def _refuse_teaching(spec: RunSpec, entry: StrategyEntry | DatasetEntry) -> str | None:
    if entry.teaching and not spec.teaching:
        return "it is wrong on purpose. Set teaching: true to run it; it is never ranked"
    return None


def _check_cpu(spec: RunSpec, draft: RunDraft) -> None:
    if spec.backend == "nccl":
        raise draft.error(
            "backend",
            "nccl needs GPUs and this run has none",
            found="nccl",
            hint=f"Set backend: gloo, or {_GPU_HINT}",
        )
    if spec.precision in _NEEDS_GPU:
        raise draft.error(
            "precision",
            f"{spec.precision} needs GPUs and this run has none",
            found=spec.precision,
            hint=f"Set precision: {_NEEDS_GPU[spec.precision]}, or {_GPU_HINT}",
        )


def _check_gpus(spec: RunSpec, draft: RunDraft) -> None:
    available = spec.resources.nodes * spec.resources.gpus_per_node
    needed = spec.ranks * spec.devices
    per_process = spec.resources.gpus_per_node
    if needed > available or spec.devices > per_process:
        field = "devices" if spec.devices > 1 else "ranks"
        raise draft.error(
            field,
            f"more GPUs than there are: {spec.ranks} ranks x {spec.devices} devices need {needed}, and "
            f"{spec.resources.nodes} nodes x {per_process} GPUs are {available}",
            found=getattr(spec, field),
            allowed=f"up to {per_process if spec.devices > 1 else available}",
            hint=f"Set fewer {field}, or more in resources: {{nodes: .., gpus_per_node: ..}}",
        )


def _check_container(spec: RunSpec, draft: RunDraft) -> None:
    runtime, image = spec.container.runtime, spec.container.image
    if runtime != "none" and not image:
        raise draft.error(
            "container",
            f"container {runtime} needs an image",
            hint=f"Set container: {{runtime: {runtime}, image: ..}}",
        )
    if runtime == "none" and (image or spec.container.inject or spec.container.binds):
        raise draft.error(
            "container",
            "an image needs a runtime",
            found=image,
            hint="Set container: {runtime: apptainer, image: ..}, or docker, podman, pyxis",
        )
    for folder in spec.container.binds:
        if not PurePosixPath(folder).is_absolute():
            raise draft.error("container", "a folder to bind has to be named from the root", found=folder)


def _check_data(spec: RunSpec, draft: RunDraft, catalog: Catalog) -> None:
    dataset = catalog.datasets[spec.dataset]
    channels = spec.dataset_options.get("channels", dataset.channels)
    wanted = catalog.models[spec.model].input_channels
    if wanted is not None and wanted != channels:
        raise draft.error(
            "model",
            f"model {spec.model} takes images of {wanted} channels and {spec.dataset} has {channels}",
            found=spec.model,
            hint=_fitting_models(channels, catalog),
        )
    samples = spec.dataset_options.get("samples", dataset.train_samples)
    if samples is not None and spec.samples_per_step > samples:
        raise _batch_too_large(spec, draft, samples)


def _check_parts(spec: RunSpec, draft: RunDraft, catalog: Catalog) -> None:
    parts, blocks = catalog.strategies[spec.strategy].parts(spec), catalog.models[spec.model].blocks
    if parts > blocks:
        field = "devices" if spec.devices > 1 else "ranks"
        raise draft.error(
            field,
            f"strategy {spec.strategy} cannot cut model {spec.model} into {parts} parts",
            found=getattr(spec, field),
            allowed=f"up to {blocks}, its blocks",
        )


def _fitting_models(channels: int, catalog: Catalog) -> str | None:
    fitting = [name for name, entry in catalog.models.items() if entry.input_channels in (None, channels)]
    return f"Models that fit: {', '.join(fitting)}" if fitting else None


def _batch_too_large(spec: RunSpec, draft: RunDraft, samples: int) -> InputError:
    field = "batch_size" if draft.values.get("global_batch") is None else "global_batch"
    return draft.error(
        field,
        f"a step of all ranks takes {spec.samples_per_step} samples, more than the {samples} training "
        f"samples of {spec.dataset}: there is not one full step",
        found=draft.values.get(field, spec.batch_size),
    )


def _nearest_divisor(number: int, wanted: int) -> int:
    divisors = [n for n in range(1, min(number, 2 * wanted) + 1) if number % n == 0]
    return min(divisors, key=lambda divisor: abs(divisor - wanted))
