"""What one set of pictures and statistics is about: the finished runs of a class or of a group, as data
frames.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.analysis.limit_analysis import MeasuredVsPredicted
from hpcbench.analysis.result_rows import step_frame
from hpcbench.analysis.results_loading import LoadedResults
from hpcbench.analysis.run_history import RecordedState
from hpcbench.report.table_cells import rows_by_class, sample_unit
from hpcbench.report.translations import Language
from hpcbench.sweep.run_spec import Group


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The finished runs of a class or a group, as frames; `rows` are of the ranking, in the order to draw."""

    name: str
    title: str
    rows: list[ReportRow]
    runs: pd.DataFrame
    epochs: pd.DataFrame
    steps: pd.DataFrame
    language: Language
    of_class: bool = False
    standings: Mapping[str, MeasuredVsPredicted] = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What a sample is called."""
        return sample_unit(self.rows)

    def with_values(self, frame: pd.DataFrame, column: str) -> list[ReportRow]:
        """Return the rows of which a frame holds any value of a column."""
        known = set(frame.loc[frame[column].notna(), "experiment"])
        return [row for row in self.rows if row["experiment"] in known]

    def of(self, row: ReportRow, frame: pd.DataFrame) -> pd.DataFrame:
        """Return an experiment's part of a frame."""
        part: pd.DataFrame = frame[frame["experiment"] == row["experiment"]]
        return part


def build_scenes(
    loaded: LoadedResults, rows: list[ReportRow], groups: Sequence[Group], language: Language,
    standings: Mapping[str, MeasuredVsPredicted] | None = None, *, with_steps: bool = True,
) -> list[Scene]:  # fmt: skip
    """Return what to draw: each class, then each group, without what trains nothing or has not finished.

    `with_steps` is for pictures: without, the scenes have no steps, which may be millions.
    A group of all runs of a class stands for the class: nothing is drawn twice.
    """
    usable = loaded.runs[
        (loaded.runs["state"] == RecordedState.FINISHED.value) & loaded.runs["rankable"].fillna(False)
    ]
    steps = loaded.steps if with_steps else step_frame([])
    known = set(usable["experiment"])
    drawn = [row for row in rows if row["experiment"] in known]
    classes = rows_by_class(rows).keys() - {None}
    members_of = rows_by_class(drawn)
    found = [
        replace(
            _build_scene(
                str(label), str(label), members_of.get(label, []), loaded.epochs, steps, usable, language
            ),
            of_class=True,
        )
        for label in sorted(str(each) for each in classes)
    ]
    for group in groups:
        members = [row for row in drawn if _is_member(row["experiment"], group.runs)]
        if len({row["class"] for row in members}) > 1:
            # Ranks of several classes are not to be mixed; the pictures still need an order.
            members.sort(key=lambda row: -(row["throughput_samples_s"] or 0))
            members = [{**row, "rank": None, "rank_high": None} for row in members]
        names = _experiment_names(members)
        found = [
            scene
            for scene in found
            if not scene.of_class or not names or _experiment_names(scene.rows) != names
        ]
        title = f"{group.id}: {group.title}"
        found.append(_build_scene(group.id, title, members, loaded.epochs, steps, usable, language))
    return [replace(scene, standings=standings or {}) for scene in found]


def _experiment_names(rows: Sequence[ReportRow]) -> set[str]:
    return {row["experiment"] for row in rows}


def _is_member(experiment: str, names: Sequence[str]) -> bool:
    # One name with two meanings carries its sweep in brackets behind it (analysis/load.py).
    return experiment in names or experiment.split(" (")[0] in names


def _build_scene(
    name: str, title: str, rows: list[ReportRow], epochs: pd.DataFrame, steps: pd.DataFrame,
    usable: pd.DataFrame,
    language: Language,
) -> Scene:  # fmt: skip
    experiments = [row["experiment"] for row in rows]
    ids = usable.loc[usable["experiment"].isin(experiments), "run_id"]
    return Scene(
        name=name, title=title, rows=rows, runs=usable[usable["run_id"].isin(ids)],
        epochs=epochs[epochs["run_id"].isin(ids)], steps=steps[steps["run_id"].isin(ids)], language=language,
    )  # fmt: skip


def known_values(column: pd.Series[Any]) -> list[float]:
    """Return the known values of a column."""
    return [float(value) for value in column.dropna()]
