"""How the columns of tables are called, in English and Chinese, and the units in their headers."""

from __future__ import annotations

import re

_TIME = "(时间|耗时|用时|时长)"
# Parts of a header, in lower case, with spaces for underscores. The first field of which one is found counts.
_PARTS: dict[str, tuple[str, ...]] = {
    "ignored": (
        "loss", "损失", r"\bmem", "memory", "显存", "内存", r"\bcomm", "通信", r"train\w* acc",
        "训练(集)?(准确率|精度)", "per (device|gpu|rank)", "每卡", "单卡", "ci (low|high)", "wait", "peak",
        "speed ?up", "加速比", "efficiency",
    ),
    "repeats": (
        "repeat", r"\bseeds?\b", "^n$", r"\bstd\b", "std ?dev", "deviation", "±", "重复", "标准差", "次数",
    ),
    "throughput": (
        "throughput", "吞吐", "^(img|imgs|images?|samples?) ?(/|per) ?s", "训练速度", "images? per second",
    ),
    "total_time": (
        "total .*time", "^total (s|sec|seconds|min|h)$", "wall ?(clock)? ?time", "elapsed", f"总.*{_TIME}",
    ),
    "epoch_time": (
        "epoch time", "time (per|/) ?epoch", "/ ?epoch$", "^epoch (s|sec|seconds|min)$", "seconds per epoch",
        f"每(一|个)?(轮|epoch|周期).*({_TIME}|秒)", f"(单轮|epoch|轮次|周期) ?(训练)?{_TIME}", f"训练{_TIME}",
    ),
    "time": ("^(train|training|run|running)? ?(time|duration)$", f"^{_TIME}$"),
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
PATTERNS = {field: re.compile("|".join(parts)) for field, parts in _PARTS.items()}

TIME_UNITS = {
    **dict.fromkeys(("ms", "毫秒"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "秒"), 1.0),
    **dict.fromkeys(("min", "mins", "minute", "minutes", "分", "分钟"), 60.0),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours", "小时", "时"), 3600.0),
}
_THING = r"(?:imgs?|images?|pics?|samples?|张|图|图像|图片|样本|个)"
_RATE = re.compile(rf"(?P<k>k ?)?{_THING} ?(?:/|per| ) ?(?P<time>[a-z]+|秒|分钟|分|小时)")
_AT_END = (
    re.compile(rf"(?:^| )(?P<unit>(?:k ?)?{_THING} ?(?:/|per| ) ?(?:s|sec|second|min|h|秒|分钟|小时))$"),
    re.compile(rf"(?:^|[ /])(?P<unit>{'|'.join(TIME_UNITS)}|pct|percent|%)$"),
)


def unit_at_end(label: str) -> tuple[str, str | None]:
    """Split a header without parentheses, such as `throughput img s`, into what it names and its unit."""
    match = next((found for found in (pattern.search(label) for pattern in _AT_END) if found), None)
    if match is None:
        return label, None
    return label[: match.start()].strip(" /") or label, match["unit"]


def rate_unit(unit: str) -> float | None:
    """Return samples a second in one unit of a rate; None where it is no rate of samples."""
    match = _RATE.fullmatch(unit)
    if not match or match["time"] not in TIME_UNITS:
        return None
    return (1000.0 if match["k"] else 1.0) / TIME_UNITS[match["time"]]
