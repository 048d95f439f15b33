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
from hpcbench.report.translations import N_, Language

MEASURE_NAMES = {
    "throughput_samples_s": N_("throughput"),
    "throughput_per_device": N_("throughput per device"),
    "best_acc_pct": N_("best accuracy"),
    "final_acc_pct": N_("final accuracy"),
    "epoch_time_s": N_("time per epoch"),
    "total_time_s": N_("total time"),
    "peak_mem_mb": N_("peak memory"),
    "data_wait_pct": N_("share of waiting for data"),
    "exposed_comm_pct": N_("share of exposed communication"),
}


def class_conclusion(rows: list[ReportRow], pairs: list[RunPair], rank_by: str, language: Language) -> str:
    """Say in plain text what the rows of one class, best first, allow to say."""
    ranked = [row for row in rows if row["rank"] is not None]
    if not ranked:
        return language.text("No run of this class has finished with a figure to rank by.")
    best = ranked[0]
    if len(ranked) == 1:
        return language.text(
            "{best} is the only ranked run: {value}.",
            best=best["experiment"],
            value=_value_with_interval(best, rank_by, language),
        )
    second = ranked[1]
    pair = next(p for p in pairs if (p.first, p.second) == (best["experiment"], second["experiment"]))
    tied = [row["experiment"] for row in ranked if row["rank"] == best["rank"]]
    if len(tied) == 1:
        return _single_best_sentence(best, second, pair, rank_by, language)
    sentence = language.text(
        "No single first place by {column} is supported: {names} cannot be separated. The "
        "best mean is that of {best}: {value}.",
        column=language.text(MEASURE_NAMES[rank_by]),
        names=_join_names(tied, language),
        best=best["experiment"],
        value=_value_with_interval(best, rank_by, language),
    )
    return language.sentences([sentence, _repeats_needed_sentence(pair, language)])


def _single_best_sentence(
    best: ReportRow, second: ReportRow, pair: RunPair, rank_by: str, language: Language
) -> str:
    sentence = language.text(
        "{best} comes first by {column}: {value}, before {second}: {second_value}",
        best=best["experiment"],
        column=language.text(MEASURE_NAMES[rank_by]),
        value=_value_with_interval(best, rank_by, language),
        second=second["experiment"],
        second_value=_value_with_interval(second, rank_by, language),
    )
    if FIGURES[rank_by].logarithmic and best[rank_by] > 0 and second[rank_by] > 0:
        ratio = best[rank_by] / second[rank_by]
        sentence += language.text(" (a factor of {factor})", factor=f"{max(ratio, 1 / ratio):.3g}")
    p = "< 0.001" if pair.p_holm is not None and pair.p_holm < 0.001 else f"= {pair.p_holm:.2g}"
    support = language.text(
        "The difference is supported: paired t test over {blocks} repeats, p {p} after "
        "correction for {tests} tests.",
        blocks=pair.difference.blocks,
        p=p,
        tests=pair.tests,
    )
    return language.sentences([sentence + language.stop, support])


def _repeats_needed_sentence(pair: RunPair, language: Language) -> str:
    if pair.p_holm is None:
        return language.text(
            "Fewer than {fewest} repeats were run side by side, so no difference is tested.",
            fewest=MIN_PAIRED_BLOCKS,
        )
    repeats = pair.repeats_needed()
    if repeats is None:
        return language.text(
            "More than {most} repeats would be needed to separate {best} from {second}.",
            best=pair.first,
            second=pair.second,
            most=MAX_REPEATS,
        )
    return language.text(
        "About {repeats} repeats would be needed to separate {best} from {second}.",
        best=pair.first,
        second=pair.second,
        repeats=repeats,
    )


def _value_with_interval(row: ReportRow, column: str, language: Language) -> str:
    unit = FIGURES[column].unit.format(unit=sample_unit([row]))
    value = f"{format_number(row[column])} {unit}"
    if column != "throughput_samples_s" or row["throughput_ci_low"] is None:
        return f"{value} ({language.text('n = {n}', n=row['repeats'])})"
    low, high = format_number(row["throughput_ci_low"]), format_number(row["throughput_ci_high"])
    interval = language.text(
        "95 % confidence interval {low} to {high}, n = {n}", low=low, high=high, n=row["repeats"]
    )
    return f"{value} ({interval})"


def _join_names(names: list[str], language: Language) -> str:
    return language.in_context("punctuation", " and ").join([language.comma.join(names[:-1]), names[-1]])


GIGABYTE = 10**9
MOST_NAMES = 5  # names in a sentence


def methods_paragraph(ranking: Ranking, runs: pd.DataFrame, language: Language) -> str:
    """Return the paragraph as plain text."""
    finished = runs[runs["state"] == RecordedState.FINISHED.value]
    repeats = sorted(set(finished.groupby("experiment").size()))
    scale = (
        language.text("logarithms") if FIGURES[ranking.rank_by].logarithmic else language.text("the values")
    )
    sentences = _environment_sentences(finished, language)
    if repeats:
        sentences += [
            language.text(
                "Each of {rows} configurations was repeated {repeats} times, interleaved in time.",
                rows=finished["experiment"].nunique(),
                repeats=_range_text(repeats),
            ),
            language.text(
                "The first {steps} steps of each attempt trained but did not count for speed.",
                steps=_range_text(sorted(_warmups(finished))),
            ),
        ]
    sentences += [
        language.text(
            "Throughput is the number of samples consumed by all training ranks over the "
            "wall-clock time between barriers."
        ),
        language.text(
            "Intervals are 95 % confidence intervals of the mean (Student's t); differences "
            "were tested with paired t tests by repeat on {scale} and corrected after Holm "
            "(1979) inside a class; ranks are simultaneous 95 % intervals (Al Mohamad et al. "
            "2022).",
            scale=scale,
        ),
        language.text("Accuracy counts each validation sample once."),
    ]
    return language.sentences([*sentences, _exclusions(ranking, runs, language)])


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


def _environment_sentences(runs: pd.DataFrame, language: Language) -> list[str]:
    found = distinct_environments(runs)
    if not found:
        return [language.text("The records do not describe the software and hardware.")]
    software = {_software(each, language) for each in found}
    machines = sorted({_machine(each, language) for each in found})
    return [*sorted(software), language.text("Hardware: {machines}.", machines=language.comma.join(machines))]


def _software(environment: dict[str, Any], language: Language) -> str:
    packages = environment.get("packages") or {}
    chosen = [f"{name} {packages[name]}" for name in ("torch", "torchvision") if name in packages]
    return language.text(
        "Runs were done with hpcbench {hpcbench}{packages} under Python {python}, {os}.",
        hpcbench=environment.get("hpcbench", "?"),
        packages="".join(language.comma + each for each in chosen),
        python=environment.get("python", "?"),
        os=environment.get("os", "?"),
    )


def _machine(environment: dict[str, Any], language: Language) -> str:
    memory = environment.get("memory_bytes")
    devices = environment.get("devices") or []
    names = [str(each.get("name", each)) if isinstance(each, dict) else str(each) for each in devices]
    counted = [f"{names.count(name)} x {name}" for name in dict.fromkeys(names)]
    return language.text(
        "{cpu} ({cores} usable cores, {memory_gb} GB of memory){devices}",
        cpu=environment.get("cpu") or "?",
        cores=environment.get("cores_usable") or "?",
        memory_gb=round(memory / GIGABYTE) if memory else "?",
        devices="".join(language.comma + each for each in counted),
    )


def _warmups(runs: pd.DataFrame) -> set[int]:
    return {json.loads(text)["warmup_steps"] for text in runs["spec"].dropna()}


def _range_text(values: list[int]) -> str:
    return str(values[0]) if values[0] == values[-1] else f"{values[0]}–{values[-1]}"


def _exclusions(ranking: Ranking, runs: pd.DataFrame, language: Language) -> str:
    incomplete = int((runs["state"] != RecordedState.FINISHED.value).sum())
    untrusted = [row["experiment"] for row in plain_rows(ranking.frame) if row["trusted"] == "no"]
    what = []
    if incomplete:
        what.append(language.text("{n} repeats that did not finish", n=incomplete))
    if untrusted:
        names = [*untrusted[:MOST_NAMES], *(["…"] if len(untrusted) > MOST_NAMES else [])]
        what.append(
            language.text(
                "{n} configurations with an error found by the audit ({names}), which are not ranked",
                n=len(untrusted),
                names=language.comma.join(names),
            )
        )
    return (
        language.text("Left out: {what}.", what=language.comma.join(what))
        if what
        else language.text("No run was left out.")
    )
