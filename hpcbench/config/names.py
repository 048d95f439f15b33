"""Names of runs: the rule they follow, `{field}` in them, and the ones made where a sweep gives none.

A made name is the strategy and what the run's own grid varies, in the order that published studies use:
`ddp_nccl_resnet18_bs128x2_cacheTrue_ampFalse`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Any

from hpcbench.config.catalog import Catalog, Processes
from hpcbench.config.document import At
from hpcbench.config.fields import MISSING, Fields, read
from hpcbench.config.spec import RunSpec
from hpcbench.errors import input_error

MAX_LENGTH = 150  # a file name may have 255 bytes, and names get endings
_RULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")

# Together they make one part: bs128x2.
_BATCH = ("batch_size", "global_batch", "ranks", "devices")
_FIRST = ("strategy", "strategy_options", "backend", "dataset", "model", "stem", *_BATCH)
_LAST = ("cache", "precision")


def check_name(name: str, at: At, *, what: str = "name") -> str:
    """Return the name; raises InputError where it could not be a folder everywhere."""
    if _RULE.fullmatch(name) and len(name) <= MAX_LENGTH:
        return name
    proper = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:MAX_LENGTH]
    raise input_error(
        f"not a usable {what}",
        **at,
        found=name,
        allowed=f"letters, digits, '.', '_' and '-', first no '.' or '-', at most {MAX_LENGTH} of them",
        hint=f"Perhaps {proper}" if proper else None,
    )


def fill_in(template: str, spec: RunSpec, fields: Fields, at: At) -> str:
    """Replace `{field}` by what the run has there."""

    def value_of(match: re.Match[str]) -> str:
        word = match[1]
        if word not in fields.leaves or word == "name":
            raise fields.unknown(word, lambda path: at, ())
        return _written(read(spec, word))

    return _PLACEHOLDER.sub(value_of, template)


def made_name(spec: RunSpec, spread: Mapping[str, Collection[Any]], catalog: Catalog) -> str:
    """Make a name; `spread` has the fields that vary, each with all the values that it takes."""
    parts = dict.fromkeys(
        _part(path, spec, spread[path], catalog)
        for path in sorted(spread, key=_position)
        if path != "strategy"
    )
    return "_".join((spec.strategy, *(part for part in parts if part)))


def _position(path: str) -> int:
    head = path.split(".", maxsplit=1)[0]
    if head in _FIRST:
        return _FIRST.index(head)
    return len(_FIRST) + 1 + _LAST.index(head) if head in _LAST else len(_FIRST)


def _part(path: str, spec: RunSpec, values: Collection[Any], catalog: Catalog) -> str:
    value = read(spec, path)
    if path in _BATCH:
        return f"bs{spec.batch_size}{_width(spec, catalog)}"
    if path == "cache" and set(values) <= {"none", "memory"}:
        return f"cache{value == 'memory'}"
    if path == "precision" and _is_switch(values):
        return f"amp{value.startswith('amp')}"
    if value is MISSING:
        return ""
    if isinstance(value, str):
        return _written(value)
    return f"{path.rsplit('.', maxsplit=1)[-1]}{_written(value)}"


def _is_switch(precisions: Collection[str]) -> bool:
    mixed = [each for each in precisions if each.startswith("amp")]
    return len(mixed) <= 1 and len(precisions) - len(mixed) <= 1


def _width(spec: RunSpec, catalog: Catalog) -> str:
    processes = catalog.strategies[spec.strategy].processes
    if processes is Processes.ONE:
        return ""
    if processes is Processes.ONE_MANY_DEVICES:
        return f"_ngpu{spec.devices}"
    return f"_workers{spec.ranks}" if spec.servers else f"x{spec.ranks}"


def _written(value: Any) -> str:
    text = "none" if value is None or value is MISSING else str(value)
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("+", ""))
