"""Strategy, model, batch and devices, as the name of an experiment states them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.catalog_entries import ProcessLayout

_ENTRIES = {
    name: entry
    for registered, entry in STRATEGIES.items()
    if entry.trains and not entry.teaching
    for name in (registered, *entry.aliases)
}
_LONGEST_FIRST = sorted(_ENTRIES, key=len, reverse=True)  # ps_gpu_mode is not ps
# Several devices even where no number says so; one; and those that need not learn what one process does.
SEVERAL_DEVICES = {
    name
    for name, entry in _ENTRIES.items()
    if entry.processes in (ProcessLayout.ONE_MANY_DEVICES, ProcessLayout.STAGES)
}
ONE_DEVICE = {name for name, entry in _ENTRIES.items() if entry.processes is ProcessLayout.ONE}
NOT_SYNCHRONOUS = {name for name, entry in _ENTRIES.items() if entry.steps_per_exchange({}) > 1}

_BATCH = re.compile(r"(?:^|_)bs(\d{1,9})(?:x(\d{1,6}))?(?=_|$)")
_COUNT = re.compile(r"(?:^|_)(ngpu|workers)(\d{1,6})(?=_|$)")
_SWITCH = r"(?:^|_){}_?(true|false|on|off|memory|device|none|1|0)(?=_|$)"
_CACHE = re.compile(_SWITCH.format("cache"), re.IGNORECASE)
_AMP = re.compile(_SWITCH.format("amp"), re.IGNORECASE)
_MODEL = re.compile(r"(?:^|_)((?:wide_?)?resnet\d+|vgg\d+|densenet\d+|vit[a-z0-9]*)(?=_|$)", re.IGNORECASE)
_BACKEND = re.compile(r"(?:^|_)(nccl|gloo|mpi)(?=_|$)")
ON_WORDS = frozenset({"true", "on", "yes", "memory", "device", "1", "是", "开", "开启"})
OFF_WORDS = frozenset({"false", "off", "no", "none", "0", "否", "关", "关闭"})


@dataclass(frozen=True, kw_only=True)
class NameFacts:
    """What a name tells; None where it does not. `batch` is as written, `global_batch` what it comes to."""

    strategy: str | None = None
    model: str | None = None
    batch: int | None = None
    global_batch: int | None = None
    devices: int | None = None
    several: bool = False
    cache: bool = False
    amp: bool = False
    without_cache: str = ""
    explained: bool = False  # the name says nothing else


def read_name(name: str) -> NameFacts:
    """Read an experiment's name."""
    low = name.casefold()
    strategy = next((s for s in _LONGEST_FIRST if low == s or low.startswith(f"{s}_")), None)
    batch, count, model = _BATCH.search(name), _COUNT.search(name), _MODEL.search(name)
    ranks = int(batch[2]) if batch and batch[2] else None
    counted = int(count[2]) if count else None
    devices = ranks or counted or (1 if strategy in ONE_DEVICE else None)
    each = int(batch[1]) if batch else None
    # The batch of a worker or rank is multiplied; that of several GPUs in one process is split.
    shards = ranks or (counted if count and count[1] == "workers" else 1) or 1
    return NameFacts(
        strategy=strategy,
        model=model[1].casefold() if model else None,
        batch=each,
        global_batch=each * shards if each else None,
        devices=devices,
        several=(devices or 0) > 1 or (devices is None and strategy in SEVERAL_DEVICES),
        cache=_is_on(_CACHE, name),
        amp=_is_on(_AMP, name),
        without_cache=_CACHE.sub("", name),
        explained=strategy is not None and not _unexplained_rest(low.removeprefix(strategy)),
    )


def _unexplained_rest(name: str) -> str:
    """Return what is left of a name without the parts that are understood."""
    for pattern in (_CACHE, _AMP, _BATCH, _COUNT, _MODEL, _BACKEND):
        name = pattern.sub("", name)
    return name.strip("_")


def _is_on(pattern: re.Pattern[str], name: str) -> bool:
    match = pattern.search(name)
    return bool(match) and match[1].casefold() in ON_WORDS if match else False


def read_switch(cell: str) -> bool | None:
    """Read a cell of a column that says on or off."""
    word = cell.strip().casefold()
    return True if word in ON_WORDS else False if word in OFF_WORDS else None
