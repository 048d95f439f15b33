"""The paragraph about methods that people paste into a paper: hardware, versions, n, warm-up, exclusions."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_columns import RANKING_MEASURES
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.words import Words

GIGABYTE = 10**9
SHOWN = 5  # names in a sentence


def methods(ranking: Ranking, runs: pd.DataFrame, words: Words) -> str:
    """Return the paragraph as plain text."""
    said = words.methods
    finished = runs[runs["state"] == RecordedState.FINISHED.value]
    repeats = sorted(set(finished.groupby("experiment").size()))
    scale = said["logarithms" if RANKING_MEASURES[ranking.rank_by].logarithmic else "values"]
    sentences = _surroundings(finished, words)
    if repeats:
        sentences += [
            said["design"].format(rows=finished["experiment"].nunique(), repeats=_span(repeats)),
            said["warmup"].format(steps=_span(sorted(_warmups(finished)))),
        ]
    sentences += [said["throughput"], said["interval"].format(scale=scale), said["accuracy"]]
    return words.sentence_space.join([*sentences, _exclusions(ranking, runs, words)])


def environments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the environments of runs, each once; what changes from minute to minute is left out."""
    found: dict[str, dict[str, Any]] = {}
    for text in runs["environment"].dropna():
        environment = steady(json.loads(text))
        if environment:
            found.setdefault(json.dumps(environment, sort_keys=True), environment)
    return list(found.values())


def steady(environment: dict[str, Any]) -> dict[str, Any]:
    """Return an environment without the load of the moment."""
    return {key: value for key, value in environment.items() if key != "load_1min"}


def _surroundings(runs: pd.DataFrame, words: Words) -> list[str]:
    found = environments(runs)
    if not found:
        return [words.methods["unknown"]]
    software = {_software(each, words) for each in found}
    machines = sorted({_machine(each, words) for each in found})
    return [*sorted(software), words.methods["hardware"].format(machines=words.joiner.join(machines))]


def _software(environment: dict[str, Any], words: Words) -> str:
    packages = environment.get("packages") or {}
    chosen = [f"{name} {packages[name]}" for name in ("torch", "torchvision") if name in packages]
    return words.methods["software"].format(
        hpcbench=environment.get("hpcbench", "?"),
        packages="".join(words.joiner + each for each in chosen),
        python=environment.get("python", "?"),
        os=environment.get("os", "?"),
    )


def _machine(environment: dict[str, Any], words: Words) -> str:
    memory = environment.get("memory_bytes")
    devices = environment.get("devices") or []
    names = [str(each.get("name", each)) if isinstance(each, dict) else str(each) for each in devices]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return words.methods["machine"].format(
        cpu=environment.get("cpu") or "?",
        cores=environment.get("cores_usable") or "?",
        memory_gb=round(memory / GIGABYTE) if memory else "?",
        devices="".join(words.joiner + each for each in counted),
    )


def _warmups(runs: pd.DataFrame) -> set[int]:
    return {json.loads(text)["warmup_steps"] for text in runs["spec"].dropna()}


def _span(values: list[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}–{values[-1]}"


def _exclusions(ranking: Ranking, runs: pd.DataFrame, words: Words) -> str:
    said = words.methods
    incomplete = int((runs["state"] != RecordedState.FINISHED.value).sum())
    untrusted = [row["experiment"] for row in plain_rows(ranking.frame) if row["trusted"] == "no"]
    what = []
    if incomplete:
        what.append(said["incomplete"].format(n=incomplete))
    if untrusted:
        names = [*untrusted[:SHOWN], *(["…"] if len(untrusted) > SHOWN else [])]
        what.append(said["untrusted"].format(n=len(untrusted), names=words.joiner.join(names)))
    return said["excluded"].format(what=words.joiner.join(what)) if what else said["nothing_excluded"]
