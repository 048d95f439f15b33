"""From what a sweep file says of a run to the whole run: whatever was left open follows here.

The table in docs/sweeps.md says how ranks, devices, shards and batches follow from the strategy.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hpcbench.config.catalog import Catalog, DatasetEntry, ModelEntry, Processes, StrategyEntry
from hpcbench.config.layers import Draft
from hpcbench.config.options import options_of
from hpcbench.config.rules import check_run
from hpcbench.config.spec import (
    Backend,
    Container,
    Device,
    Input,
    Optimizer,
    Resources,
    RunSpec,
    Schedule,
    Stem,
)
from hpcbench.errors import input_error

DEFAULT_EPOCHS = 1
DEFAULT_BATCH_SIZE = 64

_TAKEN_AS_SAID = (
    "strategy", "dataset", "model", "accumulation", "evaluate", "label_smoothing", "precision",
    "channels_last", "compile", "cache", "seed", "warmup_steps", "window_steps", "timeout_s", "save_weights",
    "checkpoint", "probe", "measure_exchange", "teaching",
)  # fmt: skip


@dataclass(frozen=True)
class Seats:
    """Training processes, devices of each, and parts that a batch is split into."""

    ranks: int
    devices: int
    data_shards: int


@dataclass
class Resolver:
    """Resolves runs for one catalog; `gpus_per_node` is what a run asks for that does not say."""

    catalog: Catalog
    gpus_per_node: int
    _options: dict[str, dict[str, Any]] = field(default_factory=dict)

    def resolve(self, draft: Draft) -> RunSpec:
        """Return the run, not named yet, with its first repeat's seed; InputError if it is impossible."""
        values = draft.values
        if "strategy" not in values:
            known = ", ".join(self.catalog.strategies)
            raise input_error("a run needs a strategy", **draft.at("strategy"), allowed=known)
        entry = self.catalog.strategies[values["strategy"]]
        dataset = self.catalog.datasets[values.get("dataset", RunSpec.dataset)]
        model = self.catalog.models[values.get("model", RunSpec.model)]
        resources = Resources(**{"gpus_per_node": self.gpus_per_node, **values.get("resources", {})})
        device: Device = "cuda" if resources.gpus_per_node else "cpu"
        seats = _seats(draft, entry, resources)
        options = self._options_of(draft, "strategy", entry)
        updates = seats.data_shards if entry.updates_alone(options) else 1
        batch_size = _batch_size(draft, seats.data_shards // updates)
        steps = values.get("steps")
        epochs = values.get("epochs") or (None if steps else DEFAULT_EPOCHS)
        spec = RunSpec(
            name="",
            **{key: values[key] for key in _TAKEN_AS_SAID if key in values},
            strategy_options=options,
            backend=_backend(draft, entry, device),
            device=device,
            ranks=seats.ranks,
            devices=seats.devices,
            servers=entry.extra_processes(options),
            data_shards=seats.data_shards,
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
            input=Input(**values.get("input", {})),
        )
        spec = _with_fitting_backend(spec, draft, entry)
        check_run(spec, draft, self.catalog)
        return spec

    def _options_of(self, draft: Draft, kind: str, entry: StrategyEntry | DatasetEntry) -> dict[str, Any]:
        name = f"{kind}_options"
        owner = draft.values.get(kind, getattr(RunSpec, kind, None))
        # Most runs of a grid share their options. `default=repr`: what is no JSON is refused by the check.
        key = json.dumps([kind, owner, draft.values.get(name)], sort_keys=True, default=repr)
        if key not in self._options:
            self._options[key] = options_of(draft, name, entry.options, f"{kind} {owner}")
        return dict(self._options[key])


def _container(values: dict[str, Any]) -> Container:
    """Name an image that is a file from the root: a job may not run where the sweep was submitted."""
    container = Container(**values)
    if container.runtime != "apptainer" or not container.image or "://" in container.image:
        return container
    return replace(container, image=str(Path(container.image).absolute()))


def _seats(draft: Draft, entry: StrategyEntry, resources: Resources) -> Seats:
    """Apply the table of who does what."""
    gpus = resources.gpus_per_node
    match entry.processes:
        case Processes.ONE:
            _refuse_more(draft, "ranks", "is one process")
            _refuse_more(draft, "devices", "uses one device")
            return Seats(1, 1, 1)
        case Processes.ONE_MANY_DEVICES:
            _refuse_more(draft, "ranks", "is one process over several devices", "Say devices: N instead")
            return Seats(1, _said_or(draft, "devices", gpus), 1)
        case Processes.DATA_PARALLEL | Processes.STAGES:
            _refuse_more(draft, "devices", "uses one device in each rank", "Say ranks: N instead")
            ranks = _said_or(draft, "ranks", resources.nodes * gpus)
            return Seats(ranks, 1, ranks if entry.processes is Processes.DATA_PARALLEL else 1)


def _refuse_more(draft: Draft, field: str, why: str, hint: str | None = None) -> None:
    said = draft.values.get(field, 1)
    if said != 1 and not draft.is_general(field):
        raise input_error(
            f"strategy {draft.values['strategy']} {why}",
            **draft.at(field),
            found=said,
            allowed="1, or nothing said",
            hint=hint,
        )


def _said_or(draft: Draft, field: str, default: int) -> int:
    said: int = draft.values.get(field, default)
    if said == 0:
        raise input_error(
            f"without GPUs a run of {draft.values['strategy']} has to say how many {field}",
            **draft.at(field),
            hint=f"Say {field}: 2, or resources: {{gpus_per_node: N}}",
        )
    return said


def _backend(draft: Draft, entry: StrategyEntry, device: Device) -> Backend | None:
    said: Backend | None = draft.values.get("backend")
    if said in entry.backends:
        return said
    if said is not None and not (draft.is_general("backend") and not entry.backends):
        raise input_error(
            f"strategy {draft.values['strategy']} cannot use this backend",
            **draft.at("backend"),
            found=said,
            allowed=", ".join(entry.backends) or "nothing said: it does not communicate",
        )
    usual: Backend = "nccl" if device == "cuda" else "gloo"
    if not entry.backends or usual in entry.backends:
        return usual if entry.backends else None
    return "gloo" if usual == "nccl" else "nccl"


def _with_fitting_backend(spec: RunSpec, draft: Draft, entry: StrategyEntry) -> RunSpec:
    """On GPUs, take gloo where nobody said a backend and the strategy, as it is set, refuses nccl."""
    said = draft.values.get("backend") is not None
    if said or spec.backend != "nccl" or "gloo" not in entry.backends or entry.check(spec) is None:
        return spec
    over_gloo = replace(spec, backend="gloo")
    return over_gloo if entry.check(over_gloo) is None else spec


def _stem(draft: Draft, model: ModelEntry) -> Stem | None:
    said: Stem | None = draft.values.get("stem")
    if said is None or said in model.stems:
        default: Any = model.stems[0] if model.stems else None
        return said or default
    if not model.stems and draft.is_general("stem"):
        return None
    name = draft.values.get("model", RunSpec.model)
    raise input_error(
        f"model {name} has no such stem",
        **draft.at("stem"),
        found=said,
        allowed=", ".join(model.stems) or "nothing said: it has one form only",
    )


def _batch_size(draft: Draft, shards: int) -> int:
    """Return the batch of each rank, whichever way it was said."""
    total = draft.values.get("global_batch")
    if total is None:
        return draft.values.get("batch_size") or DEFAULT_BATCH_SIZE
    if total % shards:
        nearest = max(1, round(total / shards)) * shards
        raise input_error(
            f"the global batch does not split evenly over {shards} ranks",
            **draft.at("global_batch"),
            found=total,
            hint=f"The nearest that does is {nearest}",
        )
    return int(total // shards)
