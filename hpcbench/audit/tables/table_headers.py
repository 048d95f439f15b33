"""What the columns of a table and the names of its experiments mean, in English and Chinese."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hpcbench.audit.tables.table_text import TextTable
from hpcbench.errors import InputError, SourcePlace, input_error, nearest
from hpcbench.strategies.strategy_registry import STRATEGIES
from hpcbench.sweep.catalog_entries import ProcessLayout

_TIME_WORD = "(时间|耗时|用时|时长)"
# Parts of a header, in lower case, with spaces for underscores. The first field of which one is found counts.
_HEADER_PARTS: dict[str, tuple[str, ...]] = {
    "ignored": (
        "loss", "损失", r"\bmem", "memory", "显存", "内存", r"\bcomm", "通信", r"train\w* acc",
        "训练(集)?(准确率|精度)", "per (device|gpu|rank)", "每卡", "单卡", "ci (low|high)", "wait", "peak",
        "speed ?up", "加速比", "efficiency",
    ),
    "repeats": (
        "repeat", r"\bseeds?\b", "^n$", r"\bstd\b", "std ?dev", "deviation", "±", "重复", "标准差", "次数",
    ),
    "throughput": (
        "throughput", "吞吐", "^(img|imgs|images?|samples?) ?(/|per) ?s", "训练速度",
        "images? per second",
    ),
    "total_time": (
        "total .*time", "^total (s|sec|seconds|min|h)$", "wall ?(clock)? ?time", "elapsed",
        f"总.*{_TIME_WORD}",
    ),
    "epoch_time": (
        "epoch time", "time (per|/) ?epoch", "/ ?epoch$", "^epoch (s|sec|seconds|min)$", "seconds per epoch",
        f"每(一|个)?(轮|epoch|周期).*({_TIME_WORD}|秒)", f"(单轮|epoch|轮次|周期) ?(训练)?{_TIME_WORD}",
        f"训练{_TIME_WORD}",
    ),
    "time": ("^(train|training|run|running)? ?(time|duration)$", f"^{_TIME_WORD}$"),
    "accuracy": (r"\bacc", "accuracy", "准确率", "top ?1", "^精度$", "(验证|测试|最佳|最高)精度"),
    "batch_size": ("batch", "^bs$", "批(次|量|处理)?大小", "批量"),
    "devices": (
        r"\bgpus?$", "^(num|number of|n) (gpus?|devices|ranks)", "^devices?$", "^ranks$", "world size",
        "workers$", "gpu ?数", "卡数", "进程数",
    ),
    "cache": ("^(dataset )?cache", "缓存"),
    "precision": ("^amp$", "mixed precision", "^precision$", "混合精度"),
    "model": ("^model", "network", "^arch", "模型", "网络"),
    "name": (
        r"^(method|experiment|strategy|name|run|config|configuration|approach|mode)s?\b", "方法", "实验",
        "策略", "名称", "配置",
    ),
}  # fmt: skip
HEADER_PATTERNS = {field: re.compile("|".join(parts)) for field, parts in _HEADER_PARTS.items()}

TIME_UNITS = {
    **dict.fromkeys(("ms", "毫秒"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "分", "分钟"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时", "时"), 3600.0),
}
_SAMPLE_WORD = r"(?:imgs?|images?|pics?|samples?|张|图|图像|图片|样本|个)"
_RATE = re.compile(rf"(?P<k>k ?)?{_SAMPLE_WORD} ?(?:/|per| ) ?(?P<time>[a-z]+|秒|分钟|分|小时)")
_UNIT_AT_END = (
    re.compile(
        rf"(?:^| )(?P<unit>(?:k ?)?{_SAMPLE_WORD} ?(?:/|per| ) ?(?:s|sec|second|min|h|秒|分钟|小时))$"
    ),
    re.compile(rf"(?:^|[ /])(?P<unit>{'|'.join(TIME_UNITS)}|pct|percent|%)$"),
)


def unit_at_end(label: str) -> tuple[str, str | None]:
    """Split a header without parentheses, such as `throughput img s`, into what it names and its unit."""
    match = next((found for found in (pattern.search(label) for pattern in _UNIT_AT_END) if found), None)
    if match is None:
        return label, None
    return label[: match.start()].strip(" /") or label, match["unit"]


def rate_unit(unit: str) -> float | None:
    """Return samples a second in one unit of a rate; None where it is no rate of samples."""
    match = _RATE.fullmatch(unit)
    if not match or match["time"] not in TIME_UNITS:
        return None
    return (1000.0 if match["k"] else 1.0) / TIME_UNITS[match["time"]]


TABLE_FIELDS = (
    "throughput", "epoch_time", "total_time", "accuracy", "batch_size", "devices", "cache", "precision",
    "model", "name", "repeats",
)  # fmt: skip
SELECTABLE_FIELDS = tuple(field for field in TABLE_FIELDS if field != "repeats")

_INSIDE = re.compile(r"[(\[]([^()\[\]]*)[)\]]")


@dataclass(frozen=True)
class TableColumn:
    """A column: where it stands, what it is called, what it means, and its unit where it says one."""

    index: int
    header: str
    field: str
    unit: str | None


def normalise_header(header: str) -> str:
    """Return a header in the form that patterns look at: one width, lower case, words apart."""
    text = unicodedata.normalize("NFKC", header).casefold()
    return re.sub(r"[\s_\-*`#]+", " ", text).strip()


def read_header(index: int, header: str) -> TableColumn:
    """Say what a header means."""
    text = normalise_header(header)
    inside = _INSIDE.findall(text)
    label = _INSIDE.sub(" ", text).strip()
    label = re.sub(r"\s+", " ", label)
    unit = inside[-1].strip() if inside else None
    if unit is None:
        label, unit = unit_at_end(label)
    if unit and re.search(r"/ ?(epoch|轮)$", unit) and re.search(r"time|时间|耗时|用时", label):
        label, unit = "epoch time", unit.split("/")[0].strip()
    field = next((field for field, pattern in HEADER_PATTERNS.items() if pattern.search(label)), "ignored")
    if field == "ignored" and unit and rate_unit(unit):
        field = "throughput" if not label or label == unit else field
    return TableColumn(index, header.strip(), field, unit)


def choose_columns(grid: TextTable, said: Mapping[str, str]) -> tuple[dict[str, TableColumn], list[str]]:
    """Return the column of each field, and in sentences what was left open.

    `said` are the user's own choices, field -> header. Raises InputError for a choice that is not there, for
    a throughput or time that several columns could be, and for a table without any of them.
    """
    columns = [read_header(index, header) for index, header in enumerate(grid.header.cells)]
    chosen = {field: _selected_column(grid, columns, field, name) for field, name in said.items()}
    taken = {column.index for column in chosen.values()}
    left: list[str] = []
    by_field: dict[str, list[TableColumn]] = {}
    for column in columns:
        if column.index not in taken:
            by_field.setdefault(column.field, []).append(column)
    for field in TABLE_FIELDS:
        candidates = by_field.get(field, []) if field not in chosen else []
        if len(candidates) == 1:
            chosen[field] = candidates[0]
        elif candidates and field in ("throughput", "epoch_time", "total_time"):
            raise _ambiguous_column(grid, field, candidates)
        elif candidates and field == "name":
            chosen[field] = candidates[0]  # which of two names is printed decides nothing
        elif candidates and field != "repeats":
            left.append(
                f"{field} could be {_quoted(candidates)}: say --column {field}=NAME to have it judged"
            )
        elif candidates:
            chosen[field] = candidates[0]
    whole = chosen.get("epoch_time")
    if (
        whole
        and "epoch_time" not in said
        and re.fullmatch(r"训练\w*( ?[(\[].*)?", normalise_header(whole.header))
    ):
        left.append(
            f"column {whole.header!r} was taken for the time of an epoch: if it is that of the whole run, "
            f"say --column total_time={whole.header!r}"
        )
    if by_field.get("time") and not {"epoch_time", "total_time"} & chosen.keys():
        raise _ambiguous_column(
            grid, "epoch_time", by_field["time"], "it could be the time of an epoch or of the whole run"
        )
    if not {"throughput", "accuracy"} & chosen.keys():
        raise _no_usable_column(grid)
    return chosen, left


def _selected_column(grid: TextTable, columns: Sequence[TableColumn], field: str, name: str) -> TableColumn:
    if field not in SELECTABLE_FIELDS:
        raise input_error(
            "no such quantity",
            key="--column",
            found=field,
            allowed=", ".join(SELECTABLE_FIELDS),
            hint=_did_you_mean(field, SELECTABLE_FIELDS),
        )
    same = [c for c in columns if name in (c.header, str(c.index + 1))] or [
        c for c in columns if normalise_header(c.header) == normalise_header(name)
    ]
    if not same:
        headers = [c.header for c in columns]
        raise input_error(
            "the table has no such column",
            place=SourcePlace(grid.file, grid.header.line),
            key=f"--column {field}",
            found=name,
            allowed=", ".join(headers[:20]),
            hint=_did_you_mean(name, headers),
        )
    if len(same) > 1:
        numbers = " or ".join(str(c.index + 1) for c in same)
        raise input_error(
            "several columns have this name",
            place=SourcePlace(grid.file, grid.header.line),
            key=f"--column {field}",
            found=name,
            hint=f"Say its number instead: {numbers}",
        )
    return TableColumn(same[0].index, same[0].header, field, same[0].unit)


def _did_you_mean(word: str, candidates: Sequence[str]) -> str | None:
    guess = nearest(word, candidates)
    return f"Did you mean {guess}?" if guess else None


def _quoted(columns: Sequence[TableColumn]) -> str:
    return " or ".join(repr(column.header) for column in columns)


def _ambiguous_column(
    grid: TextTable, field: str, candidates: Sequence[TableColumn], why: str | None = None
) -> InputError:
    fields = "epoch_time or total_time" if why else field
    first = candidates[0].header
    return input_error(
        f"which column is {fields}? {why or 'Several columns match'}",
        place=SourcePlace(grid.file, grid.header.line),
        found=", ".join(column.header for column in candidates),
        hint=f"Say --column {field}={first!r}" + (f", or --column total_time={first!r}" if why else ""),
    )


def _no_usable_column(grid: TextTable) -> InputError:
    return input_error(
        "no column of this table is a throughput or an accuracy",
        place=SourcePlace(grid.file, grid.header.line),
        found=", ".join(grid.header.cells)[:200],
        allowed="names such as throughput (img/s), epoch time (s), total time (s), accuracy (%), 吞吐量, "
        "训练时间, 准确率",
        hint="Say --column throughput=NAME",
    )


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
