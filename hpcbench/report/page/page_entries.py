"""What the page shows of each experiment: its curves, its specification, its repeats, and the end of their
logs.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from hpcbench.analysis.figure_registry import FIGURES, LIFETIME_PARTS, ReportRow
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import LoadedResults, LoadedRun
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.report_sentences import without_load
from hpcbench.report.table_cells import EMPTY_CELL, LIFETIME_NAMES, PHASE_NAMES, STATE_NAMES, format_number
from hpcbench.report.translations import Language
from hpcbench.runs.events import PHASES
from hpcbench.runs.results_folder import RunFolder

PAGE_CURVE_DIGITS = 5
STEP_METRIC = "step_loss"
CURVE_STATISTICS = ("mean", "min", "max")

# x, mean, low, high; low and high are missing where there is one repeat only
PageCurve = list[list[float | None]]


def epoch_metrics() -> list[str]:
    """Return the figures that have a chart over epochs."""
    return [key for key, figure in FIGURES.items() if figure.by_epoch]


def experiment_curves(loaded: LoadedResults) -> dict[str, dict[str, PageCurve]]:
    """Return the curves of each experiment that has any, over its finished repeats."""
    runs, epochs = loaded.runs, loaded.epochs
    finished = set(runs.loc[runs["state"] == RecordedState.FINISHED.value, "run_id"])
    found: dict[str, dict[str, PageCurve]] = {}
    metrics = epoch_metrics()
    by_epoch = epochs[epochs["run_id"].isin(finished)].astype(dict.fromkeys(metrics, "float64"))
    for metric in metrics:
        known = by_epoch.dropna(subset=[metric])
        over = known.groupby(["experiment", "epoch"], sort=True)[metric].agg(list(CURVE_STATISTICS))
        _add_curves(found, metric, over)
    _add_curves(found, STEP_METRIC, _step_loss_curves(loaded.keyed))
    return found


def _step_loss_curves(keyed: Sequence[tuple[str, LoadedRun]]) -> pd.DataFrame:
    """Return mean, lowest and highest repeat of the loss, in bins of equally many steps."""
    curves = [(name, run.digest.curve) for name, run in keyed if run.history.state is RecordedState.FINISHED]
    points = pd.DataFrame(
        {
            "experiment": np.repeat([name for name, _ in curves], [len(x) for _, (x, _) in curves]),
            "at": [float(each) for _, (x, _) in curves for each in x],
            "loss": [float(each) for _, (_, y) in curves for each in y],
        }
    )
    over: pd.DataFrame = points.groupby(["experiment", "at"], sort=True)["loss"].agg(list(CURVE_STATISTICS))
    return over


def _add_curves(found: dict[str, dict[str, PageCurve]], metric: str, over: pd.DataFrame) -> None:
    names = over.index.get_level_values(0).tolist()
    at = over.index.get_level_values(1).tolist()
    values = [at, *(over[name].tolist() for name in CURVE_STATISTICS)]
    columns = [[_rounded(float(each)) for each in column] for column in values]
    for experiment, places in groupby(range(len(names)), key=names.__getitem__):
        first, *rest = places
        part = slice(first, first + len(rest) + 1)
        x, mean, low, high = (column[part] for column in columns)
        found.setdefault(str(experiment), {})[metric] = [x, mean] if low == high else [x, mean, low, high]


def _rounded(value: float) -> float | None:
    """Return a number with the digits that a curve can show; whole ones as such."""
    if not math.isfinite(value):
        return None
    rounded = float(f"{value:.{PAGE_CURVE_DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def curve_metrics(members: list[str], found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the curves that any of some experiments has, in the order of the page."""
    return [m for m in (*epoch_metrics(), STEP_METRIC) if any(m in found.get(name, {}) for name in members)]


LOG_BYTES = 2500
LOG_LINES = 30
REPEAT_FIELDS = ("name", "repeat", "seed")  # fields of a spec that say nothing about the configuration
YAML_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C where PyYAML was built with it
CONTROL_CHARACTERS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def environment_entries(runs: pd.DataFrame, language: Language) -> dict[str, dict[str, str]]:
    """Return the page's entry for each environment, by its JSON; one entry for all that are alike."""
    entries: dict[str, dict[str, str]] = {}
    alike: dict[str, dict[str, str]] = {}
    for text in runs["environment"].dropna().unique():
        environment = without_load(json.loads(text))
        if not environment:
            continue
        key = json.dumps(environment, sort_keys=True)
        place = len(alike) + 1
        entries[text] = alike.setdefault(
            key,
            {
                "anchor": f"environment-{place}",
                "name": f"{language.text('Environment')} {place}",
                "host": str(environment.get("hostname") or environment.get("cpu") or ""),
                "text": _yaml_text(environment),
            },
        )
    return entries


def repeat_entries(
    runs: pd.DataFrame, environments: dict[str, dict[str, str]], language: Language
) -> dict[str, list[dict[str, Any]]]:
    """Return the page's entries for the repeats of each experiment."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in plain_rows(runs):
        found.setdefault(row["experiment"], []).append(_repeat_entry(row, environments, language))
    return found


def spec_texts(runs: pd.DataFrame) -> dict[str, str]:
    """Return the specification of each experiment as YAML, without what its repeats differ in."""
    one_of = runs.dropna(subset=["spec"]).drop_duplicates("experiment")
    return {
        str(name): _yaml_text(
            {key: value for key, value in json.loads(spec).items() if key not in REPEAT_FIELDS}
        )
        for name, spec in one_of[["experiment", "spec"]].itertuples(index=False)
    }


def _repeat_entry(
    row: ReportRow, environments: dict[str, dict[str, str]], language: Language
) -> dict[str, Any]:
    shares = phase_shares(row)
    environment = environments.get(row["environment"] or "")
    log, file = ("", "") if row["attempts"] == 0 else log_tail(RunFolder(Path(row["folder"])))
    return {
        "name": f"r{row['repeat']}",
        "state": language.text(STATE_NAMES[row["state"]]) + (f" ({row['limit']})" if row["limit"] else ""),
        "reason": row["reason"],
        "throughput": format_number(row["throughput_samples_s"]),
        "total": format_number(row["total_time_s"]),
        "shares": [round(share, 2) for share in shares.values()],
        "phases": language.comma.join(
            f"{language.text(PHASE_NAMES[name])} {share:.1f} %" for name, share in shares.items()
        ),
        "life": _lifetime_text(row, language),
        "environment": environment["anchor"] if environment else None,
        "environment_name": environment["name"] if environment else None,
        "log": log,
        "log_file": file,
    }


def phase_shares(row: ReportRow) -> dict[str, float]:
    """Return the share of each phase in the counted time, in per cent; empty where nothing was counted."""
    seconds = {phase: row[f"{phase}_s"] or 0.0 for phase in PHASES}
    total = sum(seconds.values())
    return {phase: 100 * s / total for phase, s in seconds.items()} if total > 0 else {}


def _lifetime_text(row: ReportRow, language: Language) -> str:
    if row["state"] != RecordedState.FINISHED.value:
        return EMPTY_CELL
    known = [(part, row[f"life_{part}_s"]) for part in LIFETIME_PARTS]
    return language.comma.join(
        f"{language.text(LIFETIME_NAMES[part])} {format_number(s)} s" for part, s in known if s
    )


def log_tail(folder: RunFolder) -> tuple[str, str]:
    """Return the end of the newest log of a repeat that says anything, and the name of its file."""
    logs = [(path.stat(), path) for path in folder.logs.glob("*.log")] if folder.logs.is_dir() else []
    by_age = sorted((stat.st_mtime_ns, path.name, path) for stat, path in logs if stat.st_size)
    if not by_age:
        return "", ""
    path = by_age[-1][2]
    with path.open("rb") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
        file.seek(begin)
        text = file.read().decode("utf-8", "replace")
    lines = CONTROL_CHARACTERS.sub("", text).splitlines()[1 if begin else 0 :]
    return "\n".join(lines[-LOG_LINES:]), path.name


def _yaml_text(value: dict[str, Any]) -> str:
    text: str = yaml.dump(value, Dumper=YAML_DUMPER, sort_keys=False, allow_unicode=True, width=110)
    return text.rstrip()
