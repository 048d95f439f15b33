"""The table of all pictures, and drawing them, several at a time where the machine has the cores.

A new picture is a function from a `Scene` to a figure (None: nothing to draw), and one entry in `PICTURES`
with its caption and its meaning.
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

from hpcbench.analysis.figure_registry import ReportRow
from hpcbench.report.plots.communication_plots import draw_communication, draw_staleness
from hpcbench.report.plots.epoch_panels_plot import draw_epoch_panels
from hpcbench.report.plots.limit_plots import draw_limits, draw_prediction
from hpcbench.report.plots.plot_style import (
    FONT_ADVICE,
    FONT_VARIABLE,
    can_draw,
    chinese_font_families,
    drawing_style,
    save_figure,
    set_title,
)
from hpcbench.report.plots.scaling_plots import draw_pareto, draw_scaling
from hpcbench.report.plots.throughput_plots import draw_summary, draw_throughput
from hpcbench.report.plots.time_plots import draw_epoch_time, draw_lifetime, draw_phases
from hpcbench.report.plots.training_curve_plots import draw_accuracy, draw_learning, draw_loss
from hpcbench.report.report_files import distinct_slugs, file_slug
from hpcbench.report.scenes import Scene
from hpcbench.report.translations import ENGLISH, N_, Language


@dataclass(frozen=True, kw_only=True)
class ScenePictures:
    """The pictures of one class or group; `files` are relative to the report, without their endings."""

    title: str
    files: dict[str, str] = field(default_factory=dict)  # picture -> file
    left_out: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Picture:
    """A picture of a class or group. `name` is the ending of its files."""

    name: str
    caption: str
    draw: Callable[[Scene], Figure | None]  # None: nothing to draw
    meaning: str  # for docs/report.md


PICTURES: dict[str, Picture] = {
    picture.name: picture
    for picture in (
        Picture(
            "panels",
            N_("Loss, accuracy, throughput and memory of each epoch"),
            draw_epoch_panels,
            "training loss, test accuracy, throughput and memory, epoch by epoch; bands from lowest to "
            "highest repeat",
        ),
        Picture(
            "throughput",
            N_("Throughput"),
            draw_throughput,
            "bars: mean over repeats, in the order of the ranks; black: 95 % confidence interval, an "
            "arrow where it is cut; dots: the repeats",
        ),
        Picture(
            "accuracy",
            N_("Validation accuracy"),
            draw_accuracy,
            "validation accuracy after each epoch: mean over repeats, band from lowest to highest",
        ),
        Picture(
            "learning",
            N_("Accuracy over training steps"),
            draw_learning,
            "training accuracy over steps as lines, validation accuracy as diamonds; dotted lines end an "
            "epoch",
        ),
        Picture(
            "loss",
            N_("Training loss"),
            draw_loss,
            "training loss per sample, warm-up included; a logarithmic scale where a linear one would be "
            "flat; lines of more than 150 steps show means of several steps, the axis says of how many; "
            "dotted lines end an epoch. Where epochs differ in length the axis counts epochs",
        ),
        Picture(
            "epochtime",
            N_("Seconds per epoch"),
            draw_epoch_time,
            "seconds of training and evaluation in an epoch",
        ),
        Picture(
            "communication",
            N_("Communication overhead"),
            draw_communication,
            "time of a step: exposed exchange (by ablation, else the exchange after the backward pass), "
            "push and pull of a parameter server apart, and the rest",
        ),
        Picture(
            "phases",
            N_("Time per phase"),
            draw_phases,
            "the five phases of the counted time, mean over ranks and repeats: as shares, and as seconds "
            "for 1,000 samples, which compare across batch sizes",
        ),
        Picture(
            "time",
            N_("Time accounting"),
            draw_lifetime,
            "parts of the time of a run, from the start of its processes to their end",
        ),
        Picture("scaling", N_("Scaling"), draw_scaling, "speed-up over devices, against the ideal line"),
        Picture(
            "pareto",
            N_("Throughput against accuracy"),
            draw_pareto,
            "throughput against accuracy; the dotted line joins the runs that no other exceeds in both",
        ),
        Picture(
            "staleness",
            N_("Staleness"),
            draw_staleness,
            "number of updates by others between a gradient's pull and its use, where recorded",
        ),
        Picture(
            "ceilings",
            N_("Distance to the limits"),
            draw_limits,
            "what each run reached of its prediction, coloured by its limit, and of the compute and "
            "input ceilings alone",
        ),
        Picture(
            "prediction",
            N_("Predicted against measured"),
            draw_prediction,
            "predicted against measured step times, and the prediction over ranks; extrapolated values "
            "are hollow or dashed",
        ),
    )
}

SUMMARY_PICTURE = "summary"
SUMMARY_MEANING = "throughput of all rows, one colour a class; grey: not ranked"
CAPTIONS = {SUMMARY_PICTURE: N_("Summary"), **{name: picture.caption for name, picture in PICTURES.items()}}
SCENES_PER_WORKER = 3  # a worker needs a second to start: with fewer it does not pay


def draw_all_pictures(
    folder: Path,
    found: Sequence[Scene],
    rows: Sequence[ReportRow],
    title: str,
    language: Language,
    problems: list[str],
) -> list[ScenePictures]:
    """Draw the summary, and every picture of every class and group; remove those of an earlier report.

    Without a font for the language the pictures are in English, and `problems` gets a sentence about it.
    """
    needed = language.text("Report: {sweeps}")
    plain = all(map(can_draw, (needed, title, *(scene.title for scene in found))))
    families = [] if plain else chinese_font_families()
    spoken = language if can_draw(needed, families) else ENGLISH
    readable = [
        dataclasses.replace(scene, title=_drawable(scene.title, families), language=spoken) for scene in found
    ]
    if spoken != language or any(a.title != b.title for a, b in zip(found, readable, strict=True)):
        problems.append(
            f"no font has all characters of the pictures, so they do without. {FONT_ADVICE}{FONT_VARIABLE}"
        )
    names = [
        name
        for name in distinct_slugs([SUMMARY_PICTURE, *(scene.name for scene in found)])
        if name != SUMMARY_PICTURE
    ]
    made = [_draw_summary_picture(folder, rows, _drawable(title, families), spoken, chinese=bool(families))]
    draw = partial(draw_scene_pictures, folder, chinese=bool(families))
    workers = min(len(os.sched_getaffinity(0)), len(readable) // SCENES_PER_WORKER)
    if workers > 1:
        # Not fork: other libraries have threads of their own by now.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            made += pool.map(draw, readable, names)
    else:
        made += map(draw, readable, names)
    return remove_old_pictures(folder, made)


def draw_scene_pictures(folder: Path, scene: Scene, name: str, *, chinese: bool) -> ScenePictures:
    """Draw every picture of one scene."""
    pictures = ScenePictures(title=scene.title)
    for name_of_picture, picture in PICTURES.items():
        with drawing_style(chinese=chinese):
            drawn = picture.draw(scene)
            if drawn is None:
                pictures.left_out.append(name_of_picture)
                continue
            set_title(drawn, f"{scene.language.text(picture.caption)} – {scene.title}")
            save_figure(drawn, folder / f"{name}.{name_of_picture}")
            pictures.files[name_of_picture] = f"plots/{name}.{name_of_picture}"
    return pictures


def remove_old_pictures(folder: Path, made: list[ScenePictures]) -> list[ScenePictures]:
    """Remove the pictures of an earlier report that this one does not have; return those that it has."""
    kept = {Path(file).name for pictures in made for file in pictures.files.values()}
    for path in folder.glob("*"):
        if path.suffix in (".png", ".svg") and path.stem not in kept:
            path.unlink(missing_ok=True)
    return made


def _draw_summary_picture(
    folder: Path, rows: Sequence[ReportRow], title: str, language: Language, *, chinese: bool
) -> ScenePictures:
    pictures = ScenePictures(title=title)
    with drawing_style(chinese=chinese):
        drawn = draw_summary(rows, language)
        if drawn is not None:
            set_title(drawn, f"{language.text(CAPTIONS[SUMMARY_PICTURE])} – {title}")
            save_figure(drawn, folder / SUMMARY_PICTURE)
            pictures.files[SUMMARY_PICTURE] = f"plots/{SUMMARY_PICTURE}"
    return pictures


def _drawable(title: str, families: Sequence[str]) -> str:
    return title if can_draw(title, families) else file_slug(title)
