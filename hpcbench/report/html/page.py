"""From the tables and figures of a report to `report.html`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from hpcbench.analysis.ranking import Ranking
from hpcbench.analysis.result_rows import plain_rows
from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.audit.audit_findings import Finding
from hpcbench.report.cells import Row, by_class, unit_of
from hpcbench.report.html import table
from hpcbench.report.html.curves import curves, used_metrics
from hpcbench.report.html.details import environments_of, phase_shares, repeats_of, specs_of
from hpcbench.report.html.findings import rules_of
from hpcbench.report.methods import methods
from hpcbench.report.plots.scene import Scene
from hpcbench.report.statistics import Statistics, statistics_table
from hpcbench.report.studies import StudyTable
from hpcbench.report.verdict import verdict
from hpcbench.report.words import Words

CURVES_AT_FIRST = 8  # of a section; the others wait to be switched on
COLOURS_OF_THE_PAGE = 7  # --c0 to --c6 in report.css, for light and for dark
DASHES = ("solid", "dash", "dot", "dashdot")
SVG_DASHES = ("", "8 4", "2 3", "8 3 2 3")
FROM_ZERO = ("throughput_samples_s", "peak_mem_mb")  # axes of quantities that are compared by ratio
SMALLEST_SHARE_PCT = 5  # of a phase that is worth a word


@dataclass(frozen=True, kw_only=True)
class Content:
    """All that the page shows. `rows` are those of the ranking, with any further columns."""

    loaded: LoadedResults
    ranking: Ranking
    rows: list[Row]
    scenes: Sequence[Scene]
    findings: Sequence[Finding]
    problems: Sequence[str]
    incomplete: Sequence[str]
    statistics: Sequence[Statistics]
    studies: Sequence[StudyTable]
    limits: Sequence[StudyTable] = ()


def html_page(content: Content, words: Words) -> str:
    """Return the page; the same content gives the same text."""
    environment = Environment(
        loader=PackageLoader("hpcbench.report.html"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("report.html").render(_context(content, words))


def _context(content: Content, words: Words) -> dict[str, Any]:
    runs, rows = content.loaded.runs, content.rows
    anchors = {row["experiment"]: str(place) for place, row in enumerate(rows, 1)}
    rules = rules_of(content.findings, anchors, words)
    columns = table.used_columns(rows, several_classes=len(by_class(rows)) > 1)
    environments = environments_of(runs, words)
    found = curves(content.loaded)
    return {
        "words": _page_words(words, unit_of(rows)),
        "title": words.title.format(sweeps=", ".join(sorted(set(runs["sweep"]))) or "–"),
        "subtitle": words.page["subtitle"].format(
            rows=len(rows), repeats=int((runs["state"] == RecordedState.FINISHED.value).sum()),
            classes=len(by_class(rows).keys() - {None}),
        ),
        "notes": words.sentence_space.join([*_notes(rows, words), words.page["filters"]]),
        "cards": _cards(content, anchors, words),
        "columns": table.heads(columns, rows, words),
        "table": table.body(columns, rows, anchors, {rule["code"]: rule["anchor"] for rule in rules}),
        "findings": rules,
        "finding_count": len(content.findings),
        "sections": _sections(content, found, words),
        "unit": unit_of(rows),
        "experiments": _experiments(rows, runs, environments, anchors, words),
        "tables": _tables(content, words),
        "methods": methods(content.ranking, runs, words),
        "environments": list({each["anchor"]: each for each in environments.values()}.values()),
        "lists": [
            {"title": title, "lines": lines}
            for title, lines in ((words.incomplete, content.incomplete), (words.problems, content.problems))
            if lines
        ],
        "data": _json(_data(content.scenes, found, words)),
        "css": Markup(_asset("report.css")),
        "script": Markup(_asset("report.js")),
        "plotly": Markup(_plotly() if found else ""),
    }  # fmt: skip


def _notes(rows: list[Row], words: Words) -> list[str]:
    audited = any(row["trusted"] != "unaudited" for row in rows)
    return [words.notes.replace("`", "")] + ([] if audited or not rows else [words.unaudited])


def _page_words(words: Words, unit: str) -> dict[str, Any]:
    page = words.page
    heads = [
        page["repeat"],
        page["state"],
        "{unit}/s",
        "s",
        page["phases"],
        page["environment"],
        page["process"],
    ]
    return {
        **page,
        "html_lang": words.html_lang,
        "ranking": words.ranking,
        "nothing": words.nothing,
        "severities": words.severities,
        "phase_names": list(words.phases.values()),
        "repeat_heads": [head.format(unit=unit) for head in heads],
    }


def _cards(content: Content, anchors: Mapping[str, str], words: Words) -> list[dict[str, Any]]:
    """Return the answer for each class: what to use, how sure, what limits it, what not to believe."""
    cards = []
    classes = by_class(content.rows)
    # Where most was compared, the answer says most.
    for label, rows in sorted(classes.items(), key=lambda item: -sum(r["rank"] is not None for r in item[1])):
        ranked = [row for row in rows if row["rank"] is not None]
        best = ranked[0] if ranked else None
        sole = best is not None and best["rank"] == best["rank_high"]
        cards.append(
            {
                "title": f"{words.page['class']} {label or words.unreadable}",
                "best": best["experiment"] if best and sole else None,
                "sentence": verdict(rows, content.ranking.pairs[str(label)], content.ranking.rank_by, words),
                "limits": _limits(best["experiment"], content.loaded.runs, words) if best else None,
                "doubtful": [
                    {"name": row["experiment"], "anchor": f"row-{anchors[row['experiment']]}"}
                    for row in rows
                    if row["trusted"] == "no"
                ],
            }
        )
    return cards


def _limits(experiment: str, runs: pd.DataFrame, words: Words) -> str | None:
    """Say where the training time of an experiment goes, largest share first."""
    shares = [phase_shares(row) for row in plain_rows(runs[runs["experiment"] == experiment])]
    known = [each for each in shares if each]
    if not known:
        return None
    means = {phase: sum(each[phase] for each in known) / len(known) for phase in known[0]}
    told = [
        words.page["share"].format(name=words.phases[phase], share=f"{share:.0f}")
        for phase, share in sorted(means.items(), key=lambda item: -item[1])
        if share >= SMALLEST_SHARE_PCT
    ]
    return words.page["limits_line"].format(shares=words.joiner.join(told)) + words.stop


def _sections(content: Content, found: Mapping[str, Any], words: Words) -> list[dict[str, Any]]:
    places = {name: place for place, name in enumerate(found)}
    sections: list[dict[str, Any]] = []
    for scene in content.scenes:
        names = [row["experiment"] for row in scene.rows if row["experiment"] in places]
        if not names:
            continue
        metrics = used_metrics(names, found)
        sections.append(
            {
                "anchor": f"section-{len(sections) + 1}",
                "title": scene.title,
                "sentence": None,
                "members": [_member(name, i, places[name]) for i, name in enumerate(names)],
                "charts": [_chart(metric, scene.unit, words) for metric in metrics],
            }
        )
    return sections


def _member(name: str, place: int, index: int) -> dict[str, Any]:
    dash = place // COLOURS_OF_THE_PAGE % len(DASHES)
    return {
        "name": name, "index": index, "on": place < CURVES_AT_FIRST,
        "colour": f"c{place % COLOURS_OF_THE_PAGE}", "dash": SVG_DASHES[dash],
    }  # fmt: skip


def _chart(metric: str, unit: str, words: Words) -> dict[str, Any]:
    label = words.labels[metric].format(unit=unit)
    x = words.labels["step" if metric == "step_loss" else "epoch"]
    y = words.labels["train_loss"] if metric == "step_loss" else label
    return {"metric": metric, "title": label, "x": x, "y": y, "zero": metric in FROM_ZERO}


def _experiments(
    rows: list[Row], runs: pd.DataFrame, environments: dict[str, dict[str, str]], anchors: Mapping[str, str],
    words: Words,
) -> list[dict[str, Any]]:  # fmt: skip
    repeats, specs = repeats_of(runs, environments, words), specs_of(runs)
    return [
        {
            "anchor": f"run-{anchors[row['experiment']]}",
            "row": f"row-{anchors[row['experiment']]}",
            "name": row["experiment"],
            "class": row["class"] or words.unreadable,
            "states": words.joiner.join(dict.fromkeys(each["state"] for each in repeats[row["experiment"]])),
            "repeats": repeats[row["experiment"]],
            "spec": specs.get(row["experiment"]),
        }
        for row in rows
    ]


def _data(scenes: Sequence[Scene], found: Mapping[str, Any], words: Words) -> dict[str, Any]:
    return {
        "experiments": [{"name": name, "curves": each} for name, each in found.items()],
        "colours": COLOURS_OF_THE_PAGE,
        "dashes": DASHES,
        "words": {"rows_shown": words.page["rows_shown"]},
    }


def _tables(content: Content, words: Words) -> list[dict[str, Any]]:
    """Return the statistics and the tables in the formats of the studies, as headed groups."""
    parts = [
        (words.limits["title"], words.limits["note"], list(content.limits)),
        (words.tables["statistics"], words.tables["statistics_note"],
         [statistics_table(each, words) for each in content.statistics]),
        (words.tables["studies"], words.tables["published_note"], list(content.studies)),
    ]  # fmt: skip
    return [{"title": title, "note": note, "tables": tables} for title, note, tables in parts if tables]


def _json(data: dict[str, Any]) -> Markup:
    """Return JSON that cannot end the element it stands in, whatever names it holds."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _asset(name: str) -> str:
    return (resources.files("hpcbench.report.html") / "templates" / name).read_text(encoding="utf-8")


def _plotly() -> str:
    """Return the library that draws the curves; importing plotly itself would take a second."""
    return (resources.files("plotly") / "package_data" / "plotly.min.js").read_text(encoding="utf-8")
