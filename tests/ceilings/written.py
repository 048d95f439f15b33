"""Ceilings of machines that never were, whose figures follow from a few numbers."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hpcbench.ceilings.ceiling_records import (
    CEILING_SCHEMA,
    Ceiling,
    ComputeCeiling,
    InputCeiling,
    LinkCeiling,
    MatrixCeiling,
)

SIZES = [4**k for k in range(3, 14)]  # 64 bytes to 64 MiB
PARAMETERS = 24_000


def compute(**fields: Any) -> ComputeCeiling:
    """Return what one device trains alone: by default 10 ms for 32 images."""
    batch = fields.get("batch", 32)
    step_s = fields.pop("seconds", 0.010)
    defaults: dict[str, Any] = {
        "device": "cpu", "model": "smallconv", "dataset": "digits", "precision": "fp32", "batch": 32,
        "channels_last": False, "compiled": False, "ranks": 2, "images_per_s": batch / step_s,
        "step_s": [step_s] * 8, "forward_backward_s": 0.9 * step_s, "update_s": 0.1 * step_s,
        "flop_per_image": 1_000_000, "parameters": PARAMETERS, "parameter_bytes": 4 * PARAMETERS,
        "parameter_tensors": 10,
    }  # fmt: skip
    return ComputeCeiling(**defaults | fields)


def loader(**fields: Any) -> InputCeiling:
    """Return a loader: by default 100,000 images a second in all."""
    defaults: dict[str, Any] = {
        "device": "cpu", "dataset": "digits", "cache": "none", "workers": 0, "batch": 32, "ranks": 2,
        "images_per_s": 100_000.0,
    }  # fmt: skip
    return InputCeiling(**defaults | fields)


def link(
    operation: str = "all_reduce", *, alpha_s: float = 1e-4, bandwidth: float = 1e9, noise: float = 0.0,
    repeats: int = 5, knee_bytes: float = float("inf"), **fields: Any,
) -> LinkCeiling:  # fmt: skip
    """Return a link of n = 2 ranks; beyond `knee_bytes` a message costs another alpha and half the speed."""
    rng = random.Random(operation)

    def seconds(size: int) -> float:
        beyond = size > knee_bytes
        return (alpha_s * (5 if beyond else 1) + size / bandwidth * (2 if beyond else 1)) * (
            1 + rng.uniform(-noise, noise)
        )

    defaults: dict[str, Any] = {
        "device": "cpu", "backend": "gloo", "operation": operation, "ranks": 2, "nodes": 1,
        "size_bytes": SIZES,
        "seconds": [[seconds(size) for _ in range(repeats)] for size in SIZES],
    }  # fmt: skip
    return LinkCeiling(**defaults | fields)


def matrix(**fields: Any) -> MatrixCeiling:
    """Return a matrix rate: by default 10 GFLOP/s."""
    defaults: dict[str, Any] = {"device": "cpu", "precision": "fp32", "ranks": 2, "flop_per_s": 1e10}
    return MatrixCeiling(**defaults | fields)


def node() -> list[Ceiling]:
    """Return everything of one machine."""
    return [
        compute(), compute(ranks=1, batch=64, seconds=0.016), compute(batch=64, seconds=0.019), loader(),
        loader(ranks=1, batch=64, images_per_s=60_000.0), link(), link("broadcast"), link("send"), matrix(),
        matrix(ranks=1),
    ]  # fmt: skip


def line(ceiling: Ceiling, *, host: str = "n1", time_ns: int = 1) -> str:
    """Return the line of a ceiling, as it stands in a file."""
    head = {"ceiling": ceiling.kind, "schema": CEILING_SCHEMA, "host": host, "time_ns": time_ns}
    return json.dumps({**head, **asdict(ceiling)}) + "\n"


def write(path: Path, ceilings: Iterable[Ceiling], **header: Any) -> Path:
    """Write a file of ceilings; returns it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line(each, **header) for each in ceilings))
    return path
