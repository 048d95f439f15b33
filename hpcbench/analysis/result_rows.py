"""The rows of the result tables: one per repeat, per epoch and per step."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import orjson
import pandas as pd
from numpy.typing import NDArray

from hpcbench.analysis.figure_registry import KEY_COLUMNS, LIFETIME_PARTS, STEP_COLUMNS, TEXT, WHOLE, Row
from hpcbench.analysis.run_figures import (
    RunFigures,
    accuracy_pct,
    applied_samples_s,
    epoch_time_s,
    evaluation_loss,
    is_asynchronous_run,
    occupied_devices,
    peak_mb,
    throughput_samples_s,
)
from hpcbench.analysis.run_history import RunHistory
from hpcbench.analysis.step_tables import StepTable
from hpcbench.strategies.strategy_registry import find_strategy
from hpcbench.sweep.run_spec import RunSpec


def typed_column(values: Any, kind: str) -> Any:
    """Return values as a pandas array of a kind: one of those above."""
    return pd.array(values, dtype=kind)


def typed_table(rows: Sequence[Row], columns: Mapping[str, str]) -> pd.DataFrame:
    """Build a frame with exactly these columns; what a row does not have is missing, never NaN or 0."""
    return pd.DataFrame(
        {name: typed_column([row.get(name) for row in rows], kind) for name, kind in columns.items()}
    )


def sorted_table(rows: Sequence[Row], columns: Mapping[str, str], order: Sequence[str]) -> pd.DataFrame:
    """Build a table in the order of some of its columns."""
    return typed_table(rows, columns).sort_values(list(order), kind="stable", ignore_index=True)


def plain_rows(data: pd.DataFrame) -> list[Row]:
    """Return the rows of a frame as plain values; None where a cell is missing."""
    columns = [
        [None if gone else value for value, gone in zip(data[name].tolist(), data[name].isna(), strict=True)]
        for name in data.columns
    ]
    names = [str(name) for name in data.columns]
    return [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]


def run_row(
    history: RunHistory, spec: RunSpec | None, derived: RunFigures | None, labels: Mapping[str, str]
) -> Row:
    """Return what is known of one repeat; `labels` names the class of each recipe."""
    told = {
        "state": history.state.value,
        "reason": history.reason,
        "limit": history.limit,
        "attempts": len(history.attempts),
        "torn_lines": history.torn,
        "emulated": history.started.emulated if history.started else None,
        "environment": _environment(history),
        **_lifetime(history),
    }
    if spec is None or derived is None:
        return told
    phases = {f"{phase}_s": seconds for phase, seconds in derived.phase_s.items()}
    staleness = json.dumps(derived.staleness) if derived.staleness else None
    return {**told, **_spec_row(spec, labels), **vars(derived), **phases, "staleness": staleness}


def _environment(history: RunHistory) -> str | None:
    return json.dumps(history.started.environment, sort_keys=True) if history.started else None


def _lifetime(history: RunHistory) -> Row:
    """Return the named times of the rank that ended last; they add up to its wall time."""
    if not history.finished:
        return {}
    slowest = max(history.finished, key=lambda finished: finished.wall_s)
    return {f"life_{part}_s": getattr(slowest, f"{part}_s") for part in LIFETIME_PARTS}


def _spec_row(spec: RunSpec, labels: Mapping[str, str]) -> Row:
    trains = find_strategy(spec.strategy).trains
    return {
        "strategy": spec.strategy,
        "backend": spec.backend,
        "model": spec.model,
        "dataset": spec.dataset,
        "class": labels[spec.recipe],
        "recipe": spec.recipe,
        "batch_per_rank": spec.batch_size,
        "ranks": spec.ranks,
        "devices": occupied_devices(spec),
        "nodes": spec.resources.nodes,
        "global_batch": spec.global_batch,
        "precision": spec.precision,
        "cache": spec.cache,
        "seed": spec.seed,
        "device": spec.device,
        "rankable": trains and not spec.teaching,
        "spec": spec_text(spec),
    }


def spec_text(spec: RunSpec) -> str:
    """Return a whole spec as JSON, sorted, as `RunSpec.from_json` reads it."""
    values = {each.name: getattr(spec, each.name) for each in dataclasses.fields(spec)}
    return orjson.dumps(values, option=orjson.OPT_SORT_KEYS).decode()


def epoch_rows(history: RunHistory, spec: RunSpec, steps: StepTable) -> Iterator[Row]:
    """Yield a row for each epoch of which anything is known; means over the epoch's steps and samples."""
    for epoch in sorted({*history.windows.epoch.tolist(), *history.epochs, *history.evaluations}):
        windows = history.windows.of_epoch(epoch)
        losses = steps.loss[steps.epoch == epoch]
        ends = history.epochs.get(epoch, ())
        evaluations = history.evaluations.get(epoch, ())
        asynchronous = is_asynchronous_run(spec)
        yield {
            "epoch": epoch,
            "steps": int(windows.steps.sum()),
            "samples": int(windows.samples.sum()),
            "throughput_samples_s": applied_samples_s(history, epoch)
            if asynchronous
            else throughput_samples_s(windows.counted),
            "train_loss": _mean_of_known(losses),
            "first_loss": _first_known(losses),
            "last_loss": _first_known(losses[::-1]),
            "train_acc_pct": _mean_of_known(steps.acc_pct[steps.epoch == epoch]),
            "evaluation_loss": evaluation_loss(evaluations),
            "acc_pct": accuracy_pct(evaluations),
            "train_s": max((end.train_s for end in ends), default=None),
            "evaluation_s": max((end.evaluation_s for end in ends), default=None),
            "epoch_time_s": epoch_time_s(ends) if ends else None,
            "peak_mem_mb": peak_mb(windows, [end.peak_memory_bytes for end in ends]),
        }


def step_frame(tables: Sequence[tuple[Row, StepTable]]) -> pd.DataFrame:
    """Return the steps of all runs as one frame, from the key columns and the steps of each."""
    lengths = [len(table.step) for _, table in tables]
    places = np.repeat(np.arange(len(tables)), lengths)

    def key(name: str, kind: str) -> Any:
        # Millions of rows hold a few names: as categories they take a byte or two each.
        if kind != TEXT:
            return typed_column(np.repeat([row[name] for row, _ in tables], lengths), kind)
        names = sorted({row[name] for row, _ in tables})
        codes = np.array([names.index(row[name]) for row, _ in tables], dtype=np.int32)
        return pd.Categorical.from_codes(codes[places], categories=pd.Index(names, dtype=TEXT))

    columns = {name: key(name, kind) for name, kind in KEY_COLUMNS.items()}
    for name in ("epoch", "step", "loss", "acc_pct"):
        values = np.concatenate([np.empty(0), *(getattr(table, name) for _, table in tables)])
        kind = STEP_COLUMNS[name]
        columns[name] = typed_column(values.astype(np.int64) if kind == WHOLE else values, kind)
    return pd.DataFrame(columns).sort_values(
        ["experiment", "repeat", "step"], kind="stable", ignore_index=True
    )


def _mean_of_known(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else None


def _first_known(values: NDArray[np.float64]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known[0]) if known.size else None
