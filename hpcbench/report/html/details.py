"""What the page tells of each experiment: its specification, its repeats, and the end of their logs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from hpcbench.analysis.result_columns import LIFETIME_PARTS, PHASES
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.cells import NOTHING, Row, number
from hpcbench.report.methods import steady
from hpcbench.report.words import Words
from hpcbench.runs.results_folder import RunFolder

LOG_BYTES = 2500
LOG_LINES = 30
REPEATED = ("name", "repeat", "seed")  # fields of a spec that say nothing about the configuration
DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)  # in C where PyYAML was built with it
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def environments_of(runs: pd.DataFrame, words: Words) -> dict[str, dict[str, str]]:
    """Return the page's entry for each environment, by its JSON; one entry for all that are alike."""
    entries: dict[str, dict[str, str]] = {}
    alike: dict[str, dict[str, str]] = {}
    for text in runs["environment"].dropna().unique():
        environment = steady(json.loads(text))
        if not environment:
            continue
        key = json.dumps(environment, sort_keys=True)
        place = len(alike) + 1
        entries[text] = alike.setdefault(
            key,
            {
                "anchor": f"environment-{place}",
                "name": f"{words.page['environment']} {place}",
                "told": str(environment.get("hostname") or environment.get("cpu") or ""),
                "text": _yaml(environment),
            },
        )
    return entries


def repeats_of(
    runs: pd.DataFrame, environments: dict[str, dict[str, str]], words: Words
) -> dict[str, list[dict[str, Any]]]:
    """Return the page's entries for the repeats of each experiment."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in plain_rows(runs):
        found.setdefault(row["experiment"], []).append(_repeat(row, environments, words))
    return found


def specs_of(runs: pd.DataFrame) -> dict[str, str]:
    """Return the specification of each experiment as YAML, without what its repeats differ in."""
    one_of = runs.dropna(subset=["spec"]).drop_duplicates("experiment")
    return {
        str(name): _yaml({key: value for key, value in json.loads(spec).items() if key not in REPEATED})
        for name, spec in one_of[["experiment", "spec"]].itertuples(index=False)
    }


def _repeat(row: Row, environments: dict[str, dict[str, str]], words: Words) -> dict[str, Any]:
    shares = phase_shares(row)
    environment = environments.get(row["environment"] or "")
    log, file = ("", "") if row["attempts"] == 0 else log_tail(RunFolder(Path(row["folder"])))
    return {
        "name": f"r{row['repeat']}",
        "state": words.states[row["state"]] + (f" ({row['limit']})" if row["limit"] else ""),
        "reason": row["reason"],
        "throughput": number(row["throughput_samples_s"]),
        "total": number(row["total_time_s"]),
        "shares": [round(share, 2) for share in shares.values()],
        "told": words.joiner.join(f"{words.phases[name]} {share:.1f} %" for name, share in shares.items()),
        "life": _life(row, words),
        "environment": environment["anchor"] if environment else None,
        "environment_name": environment["name"] if environment else None,
        "log": log,
        "log_file": file,
    }


def phase_shares(row: Row) -> dict[str, float]:
    """Return the share of each phase in the counted time, in per cent; empty where nothing was counted."""
    seconds = {phase: row[f"{phase}_s"] or 0.0 for phase in PHASES}
    whole = sum(seconds.values())
    return {phase: 100 * s / whole for phase, s in seconds.items()} if whole > 0 else {}


def _life(row: Row, words: Words) -> str:
    if row["state"] != RecordedState.FINISHED.value:
        return NOTHING
    known = [(part, row[f"life_{part}_s"]) for part in LIFETIME_PARTS]
    return words.joiner.join(f"{words.life[part]} {number(s)} s" for part, s in known if s)


def log_tail(folder: RunFolder) -> tuple[str, str]:
    """Return the end of the newest log of a repeat that says anything, and the name of its file."""
    logs = [(path.stat(), path) for path in folder.logs.glob("*.log")] if folder.logs.is_dir() else []
    told = sorted((stat.st_mtime_ns, path.name, path) for stat, path in logs if stat.st_size)
    if not told:
        return "", ""
    path = told[-1][2]
    with path.open("rb") as file:
        begin = max(0, file.seek(0, os.SEEK_END) - LOG_BYTES)
        file.seek(begin)
        text = file.read().decode("utf-8", "replace")
    lines = CONTROL.sub("", text).splitlines()[1 if begin else 0 :]
    return "\n".join(lines[-LOG_LINES:]), path.name


def _yaml(value: dict[str, Any]) -> str:
    told: str = yaml.dump(value, Dumper=DUMPER, sort_keys=False, allow_unicode=True, width=110)
    return told.rstrip()
