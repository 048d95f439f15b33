"""Completes the specification of a run: values that follow from others, and `--smoke`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcbench.sweep.catalog_entries import Catalog, DatasetEntry, ModelEntry, ProcessLayout, StrategyEntry
from hpcbench.sweep.run_rules import check_run
from hpcbench.sweep.run_spec import (
    Backend,
    Container,
    Device,
    InputOptions,
    Optimizer,
    Precision,
    Resources,
    RunSpec,
    Schedule,
    Stem,
)
from hpcbench.sweep.setting_layers import RunDraft, options_of

DEFAULT_EPOCHS = 1
DEFAULT_BATCH_SIZE = 64

_COPIED_FIELDS = (
    "strategy", "dataset", "model", "accumulation", "evaluate", "label_smoothing", "precision",
    "channels_last", "compile", "cache", "seed", "warmup_steps", "window_steps", "timeout_s", "save_weights",
    "checkpoint", "probe", "measure_exchange", "teaching",
)  # fmt: skip


@dataclass(frozen=True)
class ProcessCounts:
    """Training processes, devices of each, and parts that a batch is split into."""

    ranks: int
    devices: int
    data_shards: int


@dataclass
class RunResolver:
    """Resolves runs for one catalog; `gpus_per_node` is the default of runs."""

    catalog: Catalog
    gpus_per_node: int
    _options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def resolve(self, draft: RunDraft) -> RunSpec:
        """Return the run, not named yet, with its first repeat's seed; InputError if it is impossible."""
        values = draft.values
        if "strategy" not in values:
            known = ", ".join(self.catalog.strategies)
            raise draft.error("strategy", "a run needs a strategy", allowed=known)
        entry = self.catalog.strategies[values["strategy"]]
        dataset = self.catalog.datasets[values.get("dataset", RunSpec.dataset)]
        model = self.catalog.models[values.get("model", RunSpec.model)]
        resources = Resources(**{"gpus_per_node": self.gpus_per_node, **values.get("resources", {})})
        device: Device = "cuda" if resources.gpus_per_node else "cpu"
        counts = _process_counts(draft, entry, resources)
        options = self._options_of(draft, "strategy", entry)
        updates = counts.data_shards if entry.is_asynchronous(options) else 1
        batch_size = _batch_size(draft, counts.data_shards // updates)
        steps = values.get("steps")
        epochs = values.get("epochs") or (None if steps else DEFAULT_EPOCHS)
        spec = RunSpec(
            name="",
            **{key: values[key] for key in _COPIED_FIELDS if key in values},
            strategy_options=options,
            backend=_backend(draft, entry, device),
            device=device,
            ranks=counts.ranks,
            devices=counts.devices,
            servers=entry.count_servers(options),
            data_shards=counts.data_shards,
            updates_per_step=updates,
            dataset_options=self._options_of(draft, "dataset", dataset),
            stem=_stem(draft, model),
            batch_size=batch_size,
            epochs=epochs,
            steps=steps,
            optimizer=Optimizer(**values.get("optimizer", {})),
            schedule=Schedule(**values.get("schedule", {})),
            resources=resources,
            container=_container(values.get("container", {})),
            input=InputOptions(**values.get("input", {})),
        )
        spec = _with_fitting_backend(spec, draft, entry)
        check_run(spec, draft, self.catalog)
        return spec

    def _options_of(self, draft: RunDraft, kind: str, entry: StrategyEntry | DatasetEntry) -> dict[str, Any]:
        name = f"{kind}_options"
        owner = draft.values.get(kind, getattr(RunSpec, kind, None))
        # Most runs of a grid share their options. `default=repr`: what is no JSON is refused by the check.
        key = json.dumps([kind, owner, draft.values.get(name)], sort_keys=True, default=repr)
        if key not in self._options:
            self._options[key] = options_of(draft, name, entry.options, f"{kind} {owner}")
        return dict(self._options[key])


def _container(values: dict[str, Any]) -> Container:
    """Make the path of an image file absolute: a job may run in another folder than the submission."""
    container = Container(**values)
    if container.runtime != "apptainer" or not container.image or "://" in container.image:
        return container
    return replace(container, image=str(Path(container.image).absolute()))


def _process_counts(draft: RunDraft, entry: StrategyEntry, resources: Resources) -> ProcessCounts:
    """Return the counts that the process layout of the strategy gives."""
    gpus = resources.gpus_per_node
    match entry.processes:
        case ProcessLayout.ONE:
            _refuse_more(draft, "ranks", "is one process")
            _refuse_more(draft, "devices", "uses one device")
            return ProcessCounts(1, 1, 1)
        case ProcessLayout.ONE_MANY_DEVICES:
            _refuse_more(draft, "ranks", "is one process over several devices", "Set devices: N instead")
            return ProcessCounts(1, _given_or(draft, "devices", gpus), 1)
        case ProcessLayout.DATA_PARALLEL | ProcessLayout.STAGES:
            _refuse_more(draft, "devices", "uses one device in each rank", "Set ranks: N instead")
            ranks = _given_or(draft, "ranks", resources.nodes * gpus)
            return ProcessCounts(ranks, 1, ranks if entry.processes is ProcessLayout.DATA_PARALLEL else 1)


def _refuse_more(draft: RunDraft, field: str, why: str, hint: str | None = None) -> None:
    value = draft.values.get(field, 1)
    if value != 1 and not draft.is_general(field):
        raise draft.error(
            field,
            f"strategy {draft.values['strategy']} {why}",
            found=value,
            allowed="1, or not set",
            hint=hint,
        )


def _given_or(draft: RunDraft, field: str, default: int) -> int:
    value: int = draft.values.get(field, default)
    if value == 0:
        raise draft.error(
            field,
            f"without GPUs a run of {draft.values['strategy']} has to set {field}",
            hint=f"Set {field}: 2, or resources: {{gpus_per_node: N}}",
        )
    return value


def _backend(draft: RunDraft, entry: StrategyEntry, device: Device) -> Backend | None:
    backend: Backend | None = draft.values.get("backend")
    if backend in entry.backends:
        return backend
    if backend is not None and not (draft.is_general("backend") and not entry.backends):
        raise draft.error(
            "backend",
            f"strategy {draft.values['strategy']} cannot use this backend",
            found=backend,
            allowed=", ".join(entry.backends) or "not set: it does not communicate",
        )
    usual: Backend = "nccl" if device == "cuda" else "gloo"
    if not entry.backends or usual in entry.backends:
        return usual if entry.backends else None
    return "gloo" if usual == "nccl" else "nccl"


def _with_fitting_backend(spec: RunSpec, draft: RunDraft, entry: StrategyEntry) -> RunSpec:
    """On GPUs, use gloo where no backend is set and the strategy with its options refuses nccl."""
    is_set = draft.values.get("backend") is not None
    if is_set or spec.backend != "nccl" or "gloo" not in entry.backends or entry.check(spec) is None:
        return spec
    over_gloo = replace(spec, backend="gloo")
    return over_gloo if entry.check(over_gloo) is None else spec


def _stem(draft: RunDraft, model: ModelEntry) -> Stem | None:
    stem: Stem | None = draft.values.get("stem")
    if stem is None or stem in model.stems:
        default: Any = model.stems[0] if model.stems else None
        return stem or default
    if not model.stems and draft.is_general("stem"):
        return None
    name = draft.values.get("model", RunSpec.model)
    raise draft.error(
        "stem",
        f"model {name} has no such stem",
        found=stem,
        allowed=", ".join(model.stems) or "not set: it has one form only",
    )


def _batch_size(draft: RunDraft, shards: int) -> int:
    """Return the batch of each rank, from `batch_size` or `global_batch`."""
    total = draft.values.get("global_batch")
    if total is None:
        return draft.values.get("batch_size") or DEFAULT_BATCH_SIZE
    if total % shards:
        nearest = max(1, round(total / shards)) * shards
        raise draft.error(
            "global_batch",
            f"the global batch does not split evenly over {shards} ranks",
            found=total,
            hint=f"The nearest that does is {nearest}",
        )
    return int(total // shards)


SMOKE_MAX_RANKS = 4
SMOKE_EPOCHS = 2
SMOKE_STEPS_PER_EPOCH = 2
BATCH_DIVISOR = 32  # 64, 128, 256, 512 become 2, 4, 8, 16
MIN_BATCH = 2  # batch normalisation needs two values
IMAGE_SIZE = 64
DECODED_SIZE = 74  # in the ratio of 256 to 224
EVALUATION_BATCHES = 4
_WITHOUT_GPU: dict[Precision, Precision] = {"amp_fp16": "amp_bf16", "tf32": "fp32"}


def scale_down(declared: RunSpec, catalog: Catalog, gpus: int) -> RunSpec:
    """Return the run that `--smoke` executes for a run, on a machine with that many GPUs.

    A run keeps its GPUs where the machine has enough for what is left of it, else it goes on the CPU. What is
    a strategy's own is scaled down by its entry in the catalog.
    """
    ranks = min(declared.ranks, SMOKE_MAX_RANKS)
    devices = min(declared.devices, max(1, SMOKE_MAX_RANKS // ranks))
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
        accumulation=next(n for n in range(min(run.accumulation, batch), 0, -1) if batch % n == 0),
        dataset_options=_small_data(declared, batch * shards),
        epochs=SMOKE_EPOCHS,
        steps=None,
        steps_per_epoch=SMOKE_STEPS_PER_EPOCH,
        warmup_steps=min(declared.warmup_steps, 1),
        window_steps=min(declared.window_steps, SMOKE_STEPS_PER_EPOCH),
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
    """Shrink the options of a data set: the image size, and no more samples than are used."""
    smallest = {
        "image_size": IMAGE_SIZE,
        "decoded_size": DECODED_SIZE,
        "samples": SMOKE_EPOCHS * SMOKE_STEPS_PER_EPOCH * samples_per_step,
        "evaluation_samples": EVALUATION_BATCHES * samples_per_step,
    }
    return {
        key: min(value, smallest[key]) if key in smallest and value is not None else value
        for key, value in run.dataset_options.items()
    }
