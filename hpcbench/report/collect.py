"""`hpcbench collect`: from the records of results folders to a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from hpcbench.analysis.history import State
from hpcbench.analysis.load import Loaded, load, results_folder
from hpcbench.analysis.ranking import Ranking, check_rank_by, rank
from hpcbench.config.spec import Group
from hpcbench.errors import InputError, input_error
from hpcbench.records.layout import ResultsFolder
from hpcbench.records.writer import write_atomically
from hpcbench.report.cells import rows_of
from hpcbench.report.files import replace_file, report_folder, slugs
from hpcbench.report.groups import read_groups
from hpcbench.report.page import Pictures, report_page
from hpcbench.report.plots import PICTURES
from hpcbench.report.plots.scene import scenes
from hpcbench.report.plots.style import save, style
from hpcbench.report.tables import to_csv, to_markdown
from hpcbench.report.words import words


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What `collect` found and wrote.

    `report` is the folder. `failed` counts repeats that failed or can't be read; running out of memory is
    a result and does not count. `problems` are sentences about records that were left out or are broken.
    """

    report: Path
    ranking: pd.DataFrame
    failed: int
    problems: list[str]


def collect(folders: Sequence[Path], *, rank_by: str = "throughput_samples_s", lang: str = "en") -> Collected:
    """Merge the records of results folders into the report of the last one. Safe while jobs run.

    Raises InputError for a folder that holds no results, a column that can't rank, a language that is not
    spoken, or a report that can't be written.
    """
    if not folders:
        raise input_error("no results folder to collect", allowed="one or more of results/<sweep>")
    check_rank_by(rank_by)
    spoken = words(lang)
    sources = [results_folder(path) for path in folders]
    with report_folder(sources[-1].report) as report:
        loaded = load(folders)
        problems = list(loaded.problems)
        groups = _groups(sources, problems)
        ranking = rank(loaded.runs, rank_by=rank_by)
        _write_frames(report, loaded)
        pictures = _draw(report / "plots", loaded, ranking, groups)
        page = report_page(ranking, loaded.runs, pictures, problems, spoken)
        write_atomically(report / "report.md", page)
        write_atomically(report / "ranking.md", to_markdown(ranking.frame))
        # Last: whoever finds a ranking that is newer than the records finds a whole report.
        write_atomically(report / "ranking.csv", to_csv(ranking.frame))
    return Collected(report=report, ranking=ranking.frame, failed=_failed(loaded.runs), problems=problems)


def _failed(runs: pd.DataFrame) -> int:
    broken = runs["state"].isin([State.FAILED.value, State.UNREADABLE.value]) & runs["limit"].isna()
    return int(broken.sum())


def _groups(folders: Sequence[ResultsFolder], problems: list[str]) -> list[Group]:
    groups: list[Group] = []
    for folder in folders:
        try:
            groups += read_groups(folder.sweep)
        except InputError as error:
            problems.append(str(error))  # pictures of groups are missing then; the ranking needs none
    return groups


def _write_frames(report: Path, loaded: Loaded) -> None:
    replace_file(report / "runs.parquet", lambda path: loaded.runs.to_parquet(path, index=False))
    replace_file(report / "epochs.parquet", lambda path: loaded.epochs.to_parquet(path, index=False))


def _draw(folder: Path, loaded: Loaded, ranking: Ranking, groups: Sequence[Group]) -> list[Pictures]:
    """Draw every picture of every class and group, and remove those of an earlier report."""
    made: list[Pictures] = []
    written: set[Path] = set()
    found = scenes(loaded, rows_of(ranking.frame), groups)
    for scene, scene_name in zip(found, slugs(scene.name for scene in found), strict=True):
        pictures = Pictures(title=scene.title)
        for picture, draw in PICTURES.items():
            with style():
                drawn = draw(scene)
                if drawn is None:
                    pictures.left_out.append(picture)
                    continue
                name = f"{scene_name}.{picture}"
                written |= set(save(drawn, folder / name))
                pictures.files[picture] = f"plots/{name}"
        made.append(pictures)
    for ending in ("png", "svg"):
        for stale in set(folder.glob(f"*.{ending}")) - written:
            stale.unlink(missing_ok=True)
    return made
