"""Sentences of a report: which run is best in a class and how well that is supported, and the paragraph
about methods.
"""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from hpcbench.analysis.figure_registry import FIGURES, ReportRow
from hpcbench.analysis.pairwise_tests import RunPair
from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.run_history import RecordedState
from hpcbench.analysis.statistical_tests import MAX_REPEATS, MIN_PAIRED_BLOCKS
from hpcbench.report.table_cells import format_number, sample_unit
from hpcbench.report.words import Words


def class_conclusion(rows: list[ReportRow], pairs: list[RunPair], rank_by: str, words: Words) -> str:
    """Say in plain text what the rows of one class, best first, allow to say."""
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return words.nothing_ranked
    best = ranked[0]
    if len(ranked) == 1:
        return words.only.format(best=best["experiment"], value=_value_with_interval(best, rank_by, words))
    second = ranked[1]
    pair = next(p for p in pairs if (p.first, p.second) == (best["experiment"], second["experiment"]))
    tied = [row["experiment"] for row in ranked if row["rank"] == best["rank"]]
    if len(tied) == 1:
        return _single_best_sentence(best, second, pair, rank_by, words)
    sentence = words.tied.format(
        column=words.measures[rank_by],
        names=_join_names(tied, words),
        best=best["experiment"],
        value=_value_with_interval(best, rank_by, words),
    )
    return words.sentence_space.join([sentence, _repeats_needed_sentence(pair, words)])


def _single_best_sentence(
    best: ReportRow, second: ReportRow, pair: RunPair, rank_by: str, words: Words
) -> str:
    sentence = words.first.format(
        best=best["experiment"],
        column=words.measures[rank_by],
        value=_value_with_interval(best, rank_by, words),
        second=second["experiment"],
        second_value=_value_with_interval(second, rank_by, words),
    )
    if FIGURES[rank_by].logarithmic and best[rank_by] > 0 and second[rank_by] > 0:
        ratio = best[rank_by] / second[rank_by]
        sentence += words.by_factor.format(factor=f"{max(ratio, 1 / ratio):.3g}")
    p = "< 0.001" if pair.p_holm is not None and pair.p_holm < 0.001 else f"= {pair.p_holm:.2g}"
    support = words.supported.format(blocks=pair.difference.blocks, p=p, tests=pair.tests)
    return words.sentence_space.join([sentence + words.stop, support])


def _repeats_needed_sentence(pair: RunPair, words: Words) -> str:
    if pair.p_holm is None:
        return words.too_few.format(fewest=MIN_PAIRED_BLOCKS)
    repeats = pair.repeats_needed()
    if repeats is None:
        return words.hopeless.format(best=pair.first, second=pair.second, most=MAX_REPEATS)
    return words.needed.format(best=pair.first, second=pair.second, repeats=repeats)


def _value_with_interval(row: ReportRow, column: str, words: Words) -> str:
    unit = FIGURES[column].unit.format(unit=sample_unit([row]))
    value = f"{format_number(row[column])} {unit}"
    if column != "throughput_samples_s" or row["throughput_ci_low"] is None:
        return f"{value} ({words.single.format(n=row['repeats'])})"
    low, high = format_number(row["throughput_ci_low"]), format_number(row["throughput_ci_high"])
    return f"{value} ({words.interval.format(low=low, high=high, n=row['repeats'])})"


def _join_names(names: list[str], words: Words) -> str:
    return words.last_joiner.join([words.joiner.join(names[:-1]), names[-1]])


GIGABYTE = 10**9
MOST_NAMES = 5  # names in a sentence


def methods_paragraph(ranking: Ranking, runs: pd.DataFrame, words: Words) -> str:
    """Return the paragraph as plain text."""
    said = words.methods
    finished = runs[runs["state"] == RecordedState.FINISHED.value]
    repeats = sorted(set(finished.groupby("experiment").size()))
    scale = said["logarithms" if FIGURES[ranking.rank_by].logarithmic else "values"]
    sentences = _environment_sentences(finished, words)
    if repeats:
        sentences += [
            said["design"].format(rows=finished["experiment"].nunique(), repeats=_range_text(repeats)),
            said["warmup"].format(steps=_range_text(sorted(_warmups(finished)))),
        ]
    sentences += [said["throughput"], said["interval"].format(scale=scale), said["accuracy"]]
    return words.sentence_space.join([*sentences, _exclusions(ranking, runs, words)])


def distinct_environments(runs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the environments of runs, each once; what changes from minute to minute is left out."""
    found: dict[str, dict[str, Any]] = {}
    for text in runs["environment"].dropna():
        environment = without_load(json.loads(text))
        if environment:
            found.setdefault(json.dumps(environment, sort_keys=True), environment)
    return list(found.values())


def without_load(environment: dict[str, Any]) -> dict[str, Any]:
    """Return an environment without the load of the moment."""
    return {key: value for key, value in environment.items() if key != "load_1min"}


def _environment_sentences(runs: pd.DataFrame, words: Words) -> list[str]:
    found = distinct_environments(runs)
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


def _range_text(values: list[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}–{values[-1]}"


def _exclusions(ranking: Ranking, runs: pd.DataFrame, words: Words) -> str:
    said = words.methods
    incomplete = int((runs["state"] != RecordedState.FINISHED.value).sum())
    untrusted = [row["experiment"] for row in plain_rows(ranking.frame) if row["trusted"] == "no"]
    what = []
    if incomplete:
        what.append(said["incomplete"].format(n=incomplete))
    if untrusted:
        names = [*untrusted[:MOST_NAMES], *(["…"] if len(untrusted) > MOST_NAMES else [])]
        what.append(said["untrusted"].format(n=len(untrusted), names=words.joiner.join(names)))
    return said["excluded"].format(what=words.joiner.join(what)) if what else said["nothing_excluded"]
