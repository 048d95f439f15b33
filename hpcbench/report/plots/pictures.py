"""The table of all pictures, and drawing them, several at a time where the machine has the cores.

A new picture is a function from a `Scene` to a figure (None: nothing to draw), one line in `PICTURES`, and
its caption in each language.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from matplotlib.figure import Figure

from hpcbench.analysis.result_columns import ReportRow
from hpcbench.report.plots.ceiling_plot import draw_limits
from hpcbench.report.plots.communication_plot import draw_communication
from hpcbench.report.plots.epoch_panels_plot import draw_epoch_panels
from hpcbench.report.plots.pareto_plot import draw_pareto
from hpcbench.report.plots.plot_style import (
    FONT_ADVICE,
    FONT_VARIABLE,
    PlotFont,
    chinese_font,
    drawing_style,
    needs_no_chinese_font,
    save_figure,
)
from hpcbench.report.plots.prediction_plot import draw_prediction
from hpcbench.report.plots.scaling_plot import draw_scaling
from hpcbench.report.plots.staleness_plot import draw_staleness
from hpcbench.report.plots.throughput_plots import draw_summary, draw_throughput
from hpcbench.report.plots.time_plots import draw_epoch_time, draw_lifetime, draw_phases
from hpcbench.report.plots.training_curve_plots import draw_accuracy, draw_learning, draw_loss
from hpcbench.report.report_files import distinct_slugs, file_slug
from hpcbench.report.scenes import Scene
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH


@dataclass(frozen=True, kw_only=True)
class ScenePictures:
    """The pictures of one class or group; `files` are relative to the report, without their endings."""

    title: str
    files: dict[str, str] = field(default_factory=dict)  # picture -> file
    left_out: list[str] = field(default_factory=list)


PICTURES: dict[str, Callable[[Scene], Figure | None]] = {
    "panels": draw_epoch_panels,
    "throughput": draw_throughput,
    "accuracy": draw_accuracy,
    "learning": draw_learning,
    "loss": draw_loss,
    "epochtime": draw_epoch_time,
    "communication": draw_communication,
    "phases": draw_phases,
    "time": draw_lifetime,
    "scaling": draw_scaling,
    "pareto": draw_pareto,
    "staleness": draw_staleness,
    "ceilings": draw_limits,
    "prediction": draw_prediction,
}


SUMMARY_PICTURE = "summary"
SCENES_PER_WORKER = 3  # a worker needs a second to start: with fewer it does not pay


def draw_all_pictures(
    folder: Path,
    found: Sequence[Scene],
    rows: Sequence[ReportRow],
    title: str,
    words: Words,
    problems: list[str],
) -> list[ScenePictures]:
    """Draw the summary, and every picture of every class and group; remove those of an earlier report.

    Without a font that has the signs of the language the pictures are in English, which `problems` is told.
    """
    needed = not all(map(needs_no_chinese_font, (words.title, title, *(scene.title for scene in found))))
    font = chinese_font() if needed else None
    spoken = words if font is not None or needs_no_chinese_font(words.title) else ENGLISH
    readable = [_with_drawable_title(scene, font, spoken) for scene in found]
    if spoken is not words or any(a.title != b.title for a, b in zip(found, readable, strict=True)):
        problems.append(
            f"no font with Chinese signs was found, so pictures do without. {FONT_ADVICE}{FONT_VARIABLE}"
        )
    names = [
        name
        for name in distinct_slugs([SUMMARY_PICTURE, *(scene.name for scene in found)])
        if name != SUMMARY_PICTURE
    ]
    made = [_draw_summary_picture(folder, rows, title, spoken, font)]
    draw = partial(draw_scene_pictures, folder, font=font)
    workers = min(len(os.sched_getaffinity(0)), len(readable) // SCENES_PER_WORKER)
    if workers > 1:
        # Not fork: other libraries have threads of their own by now.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            made += pool.map(draw, readable, names)
    else:
        made += map(draw, readable, names)
    return remove_old_pictures(folder, made)


def draw_scene_pictures(folder: Path, scene: Scene, name: str, *, font: PlotFont | None) -> ScenePictures:
    """Draw every picture of one scene."""
    pictures = ScenePictures(title=scene.title)
    for picture, draw in PICTURES.items():
        with drawing_style(font):
            drawn = draw(scene)
            if drawn is None:
                pictures.left_out.append(picture)
                continue
            save_figure(drawn, folder / f"{name}.{picture}")
            pictures.files[picture] = f"plots/{name}.{picture}"
    return pictures


def remove_old_pictures(folder: Path, made: list[ScenePictures]) -> list[ScenePictures]:
    """Remove the pictures of an earlier report that this one does not have; return those that it has."""
    kept = {Path(file).name for pictures in made for file in pictures.files.values()}
    for path in folder.glob("*"):
        if path.suffix in (".png", ".svg") and path.stem not in kept:
            path.unlink(missing_ok=True)
    return made


def _draw_summary_picture(
    folder: Path, rows: Sequence[ReportRow], title: str, words: Words, font: PlotFont | None
) -> ScenePictures:
    pictures = ScenePictures(title=title)
    with drawing_style(font):
        drawn = draw_summary(rows, title if font or needs_no_chinese_font(title) else file_slug(title), words)
        if drawn is not None:
            save_figure(drawn, folder / SUMMARY_PICTURE)
            pictures.files[SUMMARY_PICTURE] = f"plots/{SUMMARY_PICTURE}"
    return pictures


def _with_drawable_title(scene: Scene, font: PlotFont | None, words: Words) -> Scene:
    title = scene.title if font is not None or needs_no_chinese_font(scene.title) else file_slug(scene.title)
    return dataclasses.replace(scene, title=title, words=words)
