"""Speed-up and scaling efficiency against one device.

The reference of a run is the fastest run on one device that differs in nothing but strategy and devices: of
the same class (the same global batch: strong scaling), else with the same batch on each device (weak
scaling). Data set, model, precision and cache must be the same. efficiency = speed-up / devices
(Amdahl 1967; for weak scaling Gustafson 1988, with throughput as the measure of work).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = dict[str, Any]
SAME = ("dataset", "model", "precision", "cache")


@dataclass(frozen=True, kw_only=True)
class SpeedUp:
    """How many times as fast as one device, and what share of the ideal that is."""

    speed_up: float
    efficiency_pct: float
    reference: str
    kind: Literal["strong", "weak"]


def speed_ups(rows: Sequence[Row]) -> dict[str, SpeedUp]:
    """Return the speed-up of each row of a ranking that has a throughput and a reference."""
    # The fastest single run of each kind; a later one of equal speed does not take its place.
    fastest: dict[Hashable, Row] = {}
    for row in rows:
        if row["devices"] == 1 and row["throughput_samples_s"] and row["rank"] is not None:
            for key in (_strong(row), _weak(row)):
                best = fastest.setdefault(key, row)
                if row["throughput_samples_s"] > best["throughput_samples_s"]:
                    fastest[key] = row
    found = {}
    for row in rows:
        if not row["throughput_samples_s"] or not row["devices"]:
            continue
        strong = fastest.get(_strong(row))
        reference = strong or fastest.get(_weak(row))
        if reference is not None:
            ratio = row["throughput_samples_s"] / reference["throughput_samples_s"]
            found[row["experiment"]] = SpeedUp(
                speed_up=ratio,
                efficiency_pct=100 * ratio / row["devices"],
                reference=reference["experiment"],
                kind="strong" if strong else "weak",
            )
    return found


def _strong(row: Row) -> Hashable:
    return "class", row["class"], *(row[key] for key in SAME)


def _weak(row: Row) -> Hashable:
    return "batch", row["batch_per_rank"], *(row[key] for key in SAME)
