"""Renders `report.html` from the tables, figures and texts of a report."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpcbench.analysis.figure_registry import FIGURES, ReportRow
from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.audit.audit_findings import Finding
from hpcbench.report.findings_report import findings_by_rule
from hpcbench.report.limit_tables import LIMITS_NOTE
from hpcbench.report.page.page_entries import (
    curve_metrics,
    environment_entries,
    experiment_curves,
    phase_shares,
    repeat_entries,
    spec_texts,
)
from hpcbench.report.page.page_table import page_table_heads, page_table_rows, used_page_columns
from hpcbench.report.report_sentences import class_conclusion, methods_paragraph
from hpcbench.report.scenes import Scene
from hpcbench.report.statistics_tables import STATISTICS_NOTE, SceneStatistics, statistics_table
from hpcbench.report.study_tables import PUBLISHED_NOTE, ReportTable
from hpcbench.report.table_cells import METRIC_TITLES, PHASE_NAMES, RANKING_NOTE, rows_by_class, sample_unit
from hpcbench.report.translations import Language

CURVES_AT_FIRST = 8  # of a section; the others wait to be switched on
PAGE_COLOURS = 7  # --c0 to --c6 in report.css, for light and for dark
CURVE_DASHES = ("solid", "dash", "dot", "dashdot")
LEGEND_DASHES = ("", "8 4", "2 3", "8 3 2 3")
SMALLEST_NAMED_SHARE_PCT = 5  # of a phase that is worth a word


@dataclass(frozen=True, kw_only=True)
class PageContent:
    """All that the page shows. `rows` are those of the ranking, with any further columns."""

    loaded: LoadedResults
    ranking: Ranking
    rows: list[ReportRow]
    scenes: Sequence[Scene]
    findings: Sequence[Finding]
    problems: Sequence[str]
    incomplete: Sequence[str]
    statistics: Sequence[SceneStatistics]
    studies: Sequence[ReportTable]
    limits: Sequence[ReportTable] = ()


def html_page(content: PageContent, language: Language) -> str:
    """Return the page; the same content gives the same text."""
    environment = Environment(
        loader=PackageLoader("hpcbench.report.page"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(_template_values(content, language))


def _template_values(content: PageContent, language: Language) -> dict[str, Any]:
    runs, rows = content.loaded.runs, content.rows
    anchors = {row["experiment"]: str(place) for place, row in enumerate(rows, 1)}
    rules = findings_by_rule(content.findings, anchors, language)
    columns = used_page_columns(rows, several_classes=len(rows_by_class(rows)) > 1)
    environments = environment_entries(runs, language)
    found = experiment_curves(content.loaded)
    return {
        "_": language.text,
        "language": language,
        "phase_names": [language.text(name) for name in PHASE_NAMES.values()],
        "repeat_heads": _repeat_heads(language, sample_unit(rows)),
        "title": language.text("Report: {sweeps}", sweeps=", ".join(sorted(set(runs["sweep"]))) or "–"),
        "subtitle": language.text("Configurations: {rows}. Finished repeats: {repeats}. Classes: {classes}.",
            rows=len(rows), repeats=int((runs["state"] == RecordedState.FINISHED.value).sum()),
            classes=len(rows_by_class(rows).keys() - {None}),
        ),
        "notes": language.sentences(_notes(rows, language)),
        "cards": _class_cards(content, anchors, language),
        "columns": page_table_heads(columns, rows, language),
        "table": page_table_rows(
            columns, rows, anchors, {rule["code"]: rule["anchor"] for rule in rules}
        ),
        "findings": rules,
        "finding_count": len(content.findings),
        "sections": _sections(content, found, language),
        "experiments": _experiment_entries(rows, runs, environments, anchors, language),
        "tables": _tables(content, language),
        "methods": methods_paragraph(content.ranking, runs, language),
        "environments": list({each["anchor"]: each for each in environments.values()}.values()),
        "lists": [
            {"title": title, "lines": lines}
            for title, lines in (
                (language.text("Not finished"), content.incomplete),
                (language.text("Problems with the records"), content.problems),
            )
            if lines
        ],
        "data": _json_for_script(_script_data(content.scenes, found, language)),
        "css": Markup(_asset("report.css")),
        "script": Markup(_asset("report.js")),
        "plotly": Markup(_plotly_script() if found else ""),
    }  # fmt: skip


def _notes(rows: list[ReportRow], language: Language) -> list[str]:
    notes = [language.text(RANKING_NOTE).replace("`", "")]
    if rows and all(row["trusted"] == "unaudited" for row in rows):
        notes.append(language.text("Nothing here has been audited."))
    notes.append(
        language.text("A column filter takes text, or >5, <=3, 2..4 or =exactly. Click a title to sort.")
    )
    return notes


def _repeat_heads(language: Language, unit: str) -> list[str]:
    return [
        language.text("repeat"), language.text("state"), f"{unit}/s", "s", language.text("time per phase"),
        language.text("Environment"), language.text("time of the process"),
    ]  # fmt: skip


def _class_cards(
    content: PageContent, anchors: Mapping[str, str], language: Language
) -> list[dict[str, Any]]:
    """Return the answer for each class: what to use, how reliable it is, its limit, what failed the audit."""
    cards = []
    classes = rows_by_class(content.rows)
    # Where most was compared, the answer says most.
    for label, rows in sorted(classes.items(), key=lambda item: -sum(r["rank"] is not None for r in item[1])):
        ranked = [row for row in rows if row["rank"] is not None]
        best = ranked[0] if ranked else None
        sole = best is not None and best["rank"] == best["rank_high"]
        cards.append(
            {
                "title": f"{language.text('Class')} {label or language.text('unreadable')}",
                "best": best["experiment"] if best and sole else None,
                "sentence": class_conclusion(
                    rows, content.ranking.pairs[str(label)], content.ranking.rank_by, language
                ),
                "limits": _time_shares_sentence(best["experiment"], content.loaded.runs, language)
                if best
                else None,
                "doubtful": [
                    {"name": row["experiment"], "anchor": f"row-{anchors[row['experiment']]}"}
                    for row in rows
                    if row["trusted"] == "no"
                ],
            }
        )
    return cards


def _time_shares_sentence(experiment: str, runs: pd.DataFrame, language: Language) -> str | None:
    """Say where the training time of an experiment goes, largest share first."""
    shares = [phase_shares(row) for row in plain_rows(runs[runs["experiment"] == experiment])]
    known = [each for each in shares if each]
    if not known:
        return None
    means = {phase: sum(each[phase] for each in known) / len(known) for phase in known[0]}
    named = [
        language.text("{name} takes {share} %", name=language.text(PHASE_NAMES[phase]), share=f"{share:.0f}")
        for phase, share in sorted(means.items(), key=lambda item: -item[1])
        if share >= SMALLEST_NAMED_SHARE_PCT
    ]
    return language.text("of its training time {shares}", shares=language.comma.join(named)) + language.stop


def _sections(content: PageContent, found: Mapping[str, Any], language: Language) -> list[dict[str, Any]]:
    places = {name: place for place, name in enumerate(found)}
    sections: list[dict[str, Any]] = []
    for scene in content.scenes:
        names = [row["experiment"] for row in scene.rows if row["experiment"] in places]
        if not names:
            continue
        metrics = curve_metrics(names, found)
        sections.append(
            {
                "anchor": f"section-{len(sections) + 1}",
                "title": scene.title,
                "sentence": None,
                "members": [_member(name, i, places[name]) for i, name in enumerate(names)],
                "charts": [_chart(metric, scene.unit, language) for metric in metrics],
            }
        )
    return sections


def _member(name: str, place: int, index: int) -> dict[str, Any]:
    dash = place // PAGE_COLOURS % len(CURVE_DASHES)
    return {
        "name": name, "index": index, "on": place < CURVES_AT_FIRST,
        "colour": f"c{place % PAGE_COLOURS}", "dash": LEGEND_DASHES[dash],
    }  # fmt: skip


def _chart(metric: str, unit: str, language: Language) -> dict[str, Any]:
    label = language.text(METRIC_TITLES[metric], unit=unit)
    x = language.text("Training step") if metric == "step_loss" else language.text("Epoch")
    y = language.text("Training loss") if metric == "step_loss" else label
    zero_based = metric in FIGURES and FIGURES[metric].zero_based
    return {"metric": metric, "title": label, "x": x, "y": y, "zero": zero_based}


def _experiment_entries(
    rows: list[ReportRow], runs: pd.DataFrame, environments: dict[str, dict[str, str]],
    anchors: Mapping[str, str],
    language: Language,
) -> list[dict[str, Any]]:  # fmt: skip
    repeats, specs = repeat_entries(runs, environments, language), spec_texts(runs)
    return [
        {
            "anchor": f"run-{anchors[row['experiment']]}",
            "row": f"row-{anchors[row['experiment']]}",
            "name": row["experiment"],
            "class": row["class"] or language.text("unreadable"),
            "states": language.comma.join(
                dict.fromkeys(each["state"] for each in repeats[row["experiment"]])
            ),
            "repeats": repeats[row["experiment"]],
            "spec": specs.get(row["experiment"]),
        }
        for row in rows
    ]


def _script_data(scenes: Sequence[Scene], found: Mapping[str, Any], language: Language) -> dict[str, Any]:
    return {
        "experiments": [{"name": name, "curves": each} for name, each in found.items()],
        "colours": PAGE_COLOURS,
        "dashes": CURVE_DASHES,
        "words": {"rows_shown": language.text("{shown} of {all} rows")},
    }


def _tables(content: PageContent, language: Language) -> list[dict[str, Any]]:
    """Return the statistics and the tables in the formats of the studies, as headed groups."""
    parts = [
        (language.text("Limits"), language.text(LIMITS_NOTE), list(content.limits)),
        (language.text("Statistics"), language.text(STATISTICS_NOTE),
         [statistics_table(each, language) for each in content.statistics]),
        (language.text("In the formats of the studies"), language.text(PUBLISHED_NOTE),
         list(content.studies)),
    ]  # fmt: skip
    return [{"title": title, "note": note, "tables": tables} for title, note, tables in parts if tables]


def _json_for_script(data: dict[str, Any]) -> Markup:
    """Return JSON that cannot end the element it stands in, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _asset(name: str) -> str:
    return (resources.files("hpcbench.report.page") / "templates" / name).read_text(encoding="utf-8")


def _plotly_script() -> str:
    """Return the library that draws the curves; importing plotly itself would take a second."""
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
