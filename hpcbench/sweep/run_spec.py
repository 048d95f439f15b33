"""The specification of one run, which is made from a sweep file and read by every rank."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Le, Lt, Predicate, doc

Precision = Literal["fp64", "fp32", "tf32", "amp_fp16", "amp_bf16"]
Cache = Literal["none", "memory", "device"]
Device = Literal["cpu", "cuda"]
Backend = Literal["nccl", "gloo"]
Stem = Literal["cifar", "imagenet"]
Runtime = Literal["none", "apptainer", "docker", "podman", "pyxis"]
Checkpointing = Literal["auto", "epoch", "none"]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """SGD of torch; `lr` is the rate at the start of the schedule (after warm-up).

    With `lr_batch`, `lr` is meant for that global batch and grows linearly with the run's own (Goyal et al.
    2017). `weight_decay_on_norm: false` spares biases and the parameters of normalisation layers.
    """

    name: Literal["sgd"] = "sgd"
    lr: Annotated[float, Gt(0), Lt(1e6)] = 0.1
    lr_batch: Annotated[int, Ge(1), Le(1_000_000_000)] | None = None
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9
    weight_decay: Annotated[float, Ge(0), Lt(1e6)] = 5.0e-4
    weight_decay_on_norm: bool = True
    nesterov: bool = False


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the learning rate changes, step by step.

    `constant` keeps it, `cosine` lets it fall to 0 along half a cosine (Loshchilov and Hutter 2017, without
    restarts), `step` multiplies it by `gamma` after every `step_epochs`. Before that it rises linearly over
    `warmup_epochs`.
    """

    name: Literal["constant", "cosine", "step"] = "cosine"
    warmup_epochs: Annotated[float, Ge(0), Le(10_000)] = 0.0
    step_epochs: Annotated[int, Gt(0)] = 30
    gamma: Annotated[float, Gt(0), Le(1)] = 0.1


_TIME_LIMIT = re.compile(r"(?:([0-9]{1,3})-)?([0-9]{1,3}):([0-5][0-9]):([0-5][0-9])")


def is_time_limit(text: str) -> bool:
    """Return whether the text is [days-]hours:minutes:seconds and above zero."""
    match = _TIME_LIMIT.fullmatch(text)
    return match is not None and any(int(part) for part in match.groups(default="0"))


def seconds_of(limit: str) -> int:
    """Return a time limit in seconds."""
    match = _TIME_LIMIT.fullmatch(limit)
    assert match is not None, limit
    days, hours, minutes, seconds = (int(part) for part in match.groups(default="0"))
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def limit_of(seconds: int) -> str:
    """Write seconds as a time limit; `seconds_of` is the inverse."""
    hours, rest = divmod(seconds, 3600)
    days, hours = divmod(hours, 24) if hours > 999 else (0, hours)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}-{clock}" if days else clock


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a run requests from a scheduler; `gpus_per_node: 0` is a run on CPUs."""

    nodes: Annotated[int, Ge(1), Le(10_000)] = 1
    gpus_per_node: Annotated[int, Ge(0), Le(64)] = 0
    cpus_per_gpu: Annotated[int, Ge(1), Le(1024)] = 1
    time: Annotated[
        str, Predicate(is_time_limit), doc("a time limit as HH:MM:SS or D-HH:MM:SS, such as 02:00:00")
    ] = "01:00:00"

    @property
    def time_s(self) -> int:
        """The time limit of one run, in seconds."""
        return seconds_of(self.time)


@dataclass(frozen=True, kw_only=True)
class Container:
    """The image that the ranks run in.

    `inject` brings this machine's hpcbench along, for an image that has torch and no hpcbench. `binds` are
    folders that ranks need besides results and data, read-only and under the same name.
    """

    runtime: Runtime = "none"
    image: str | None = None
    inject: bool = False
    binds: Annotated[list[str], doc("a list of folders, such as [/scratch/sets]")] = field(
        default_factory=list
    )


@dataclass(frozen=True, kw_only=True)
class InputOptions:
    """How data gets to the model; changes the speed and nothing else.

    `workers` are the processes of each rank that decode (None: from the cores it has), `stage` is a folder on
    each node's own disk that the data is copied to before the run, `disk_cache` keeps decoded images for
    later runs in $HPCBENCH_CACHE.
    """

    workers: Annotated[int, Ge(0), Le(1024)] | None = None
    stage: str | None = None
    disk_cache: bool = False


# Fields that affect neither learning nor speed: they are not part of a run's identity.
NOT_IDENTITY = (
    "name", "repeat", "save_weights", "checkpoint", "probe", "measure_exchange", "resources.time",
    "container.image", "container.inject", "container.binds", "timeout_s",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One repeat of one run, resolved: every field has its final value.

    `batch_size` is per training rank, `devices` per training rank, `seed` is that of this repeat.
    `updates_per_step` is how many updates follow when each rank does one step: more than one where a server
    updates by each rank's gradient alone.
    `accumulation` splits each rank's batch into that many micro-batches; it never changes the global batch.
    `checkpoint` sets after which epochs the state is kept for a later continuation: `auto` keeps it at
    intervals that short runs never reach.
    `probe` lets the job measure the ceilings of the node first, where they are not known; `measure_exchange`
    adds some steps with and without the exchange after the training. Neither changes the run itself.
    `steps_per_epoch` ends an epoch after that many steps at most; `declared_id` is the run id of the run as
    the sweep file has it, which keeps apart two runs that `--smoke` scales down to the same. Only `--smoke`
    sets these two.
    """

    name: str
    repeat: Annotated[int, Ge(0)] = 0
    strategy: str
    strategy_options: dict[str, Any] = field(default_factory=dict)
    backend: Backend | None = None
    device: Device = "cpu"
    ranks: Annotated[int, Ge(1), Le(100_000)] = 1
    devices: Annotated[int, Ge(1), Le(64)] = 1
    servers: Annotated[int, Ge(0), Le(1024)] = 0
    data_shards: Annotated[int, Ge(1)] = 1
    updates_per_step: Annotated[int, Ge(1)] = 1
    dataset: str = "digits"
    dataset_options: dict[str, Any] = field(default_factory=dict)
    model: str = "smallconv"
    stem: Stem | None = None
    batch_size: Annotated[int, Ge(1), Le(1_000_000)] = 64
    accumulation: Annotated[int, Ge(1), Le(1_000_000)] = 1
    epochs: Annotated[int, Ge(1), Le(100_000)] | None = None
    steps: Annotated[int, Ge(1), Le(1_000_000_000)] | None = None
    steps_per_epoch: Annotated[int, Ge(1)] | None = None
    evaluate: bool = True
    label_smoothing: Annotated[float, Ge(0), Lt(1)] = 0.0
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    precision: Precision = "fp32"
    channels_last: bool = False
    compile: bool = False
    cache: Cache = "none"
    input: InputOptions = field(default_factory=InputOptions)
    seed: Annotated[int, Ge(0), Lt(2**31)] = 0
    warmup_steps: Annotated[int, Ge(0), Le(100_000)] = 5
    window_steps: Annotated[int, Ge(1), Le(10_000)] = 10
    timeout_s: Annotated[float, Gt(0), Le(86_400)] = 300.0
    save_weights: bool = False
    checkpoint: Checkpointing = "auto"
    probe: bool = True
    measure_exchange: bool = False
    teaching: bool = False
    smoke: bool = False
    declared_id: str | None = None
    resources: Resources = field(default_factory=Resources)
    container: Container = field(default_factory=Container)

    @property
    def global_batch(self) -> int:
        """Samples that one update rests on: of all training ranks, or of one, where each updates alone."""
        return self.samples_per_step // self.updates_per_step

    @property
    def samples_per_step(self) -> int:
        """Samples that all training ranks together consume when each does one step."""
        return self.batch_size * self.data_shards

    @property
    def processes(self) -> int:
        """Processes of the run: training ranks and servers."""
        return self.ranks + self.servers

    @cached_property
    def recipe(self) -> str:
        """Hash of the fields that affect learning; a ranking compares runs of one recipe."""
        learnt = _without(_given_values(self), NOT_IDENTITY, NOT_RECIPE)
        return _short_hash({**learnt, "global_batch": self.global_batch})

    @cached_property
    def run_id(self) -> str:
        """Hash of the fields that affect learning or speed; two runs with one id are the same run."""
        return _short_hash(_without(_given_values(self), NOT_IDENTITY))

    @cached_property
    def configuration_id(self) -> str:
        """Hash of what all repeats of this run have in common and no other run has."""
        return dataclasses.replace(self, seed=0).run_id

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; `from_json` is its inverse."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunSpec:
        """Build a spec from `to_json`'s values; raises TypeError on fields it does not know."""
        spec: RunSpec = _from_mapping(cls, data)
        return spec


# The choices that are ranked: two runs that differ only here learn the same thing.
NOT_RECIPE = (
    "strategy", "strategy_options", "backend", "device", "ranks", "devices", "servers", "data_shards",
    "updates_per_step", "batch_size", "accumulation", "precision", "channels_last", "compile", "cache",
    "input", "seed", "warmup_steps", "window_steps", "resources", "container", "declared_id",
)  # fmt: skip


@cache
def _parts(cls: Any) -> dict[str, Any]:
    """Return the fields that are dataclasses themselves."""
    return {name: kind for name, kind in get_type_hints(cls).items() if dataclasses.is_dataclass(kind)}


def _from_mapping(cls: Any, data: dict[str, Any]) -> Any:
    parts = {name: _from_mapping(kind, data[name]) for name, kind in _parts(cls).items() if name in data}
    return cls(**{**data, **parts})


def _given_values(spec: Any) -> dict[str, Any]:
    """Return the fields that differ from the defaults: a field of a later version changes no run's id."""
    kind: Any = type(spec)
    built_in = _built_in(kind)
    values = {name: getattr(spec, name) for name in built_in}
    differing = {name: value for name, value in values.items() if value != built_in[name]}
    return {
        name: _given_values(value) if dataclasses.is_dataclass(value) else value
        for name, value in differing.items()
    }


@cache
def _built_in(cls: Any) -> dict[str, Any]:
    """Return the default of each field; `MISSING` where it has none."""
    return {
        item.name: item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
        for item in dataclasses.fields(cls)
    }


def flatten_fields(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the values of nested maps by dotted path; empty maps are left out."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping):
            flat |= flatten_fields(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def _without(data: dict[str, Any], *left_out: tuple[str, ...]) -> dict[str, Any]:
    kept = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for path in (path for paths in left_out for path in paths):
        head, _, tail = path.partition(".")
        if tail:
            kept.get(head, {}).pop(tail, None)
        else:
            kept.pop(head, None)
    return {key: value for key, value in kept.items() if value != {}}


def _short_hash(data: dict[str, Any]) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that are compared with each other and drawn together; `runs` are names in the sweep's order."""

    id: str
    title: str
    factor: tuple[str, ...]
    runs: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """A sweep file, resolved: every repeat of every run, interleaved in time."""

    name: str
    files: tuple[str, ...]
    runs: tuple[RunSpec, ...]
    groups: tuple[Group, ...]
    data: dict[str, str]  # data set name -> folder
    declared: dict[str, RunSpec] = field(default_factory=dict)  # --smoke: run id -> as the file has it
    smoke_gpus: int | None = None  # --smoke: GPUs of the machine that it was scaled down to
    pack: bool | int = True  # Slurm: one allocation per resource class, N of them, or (False) one a run
