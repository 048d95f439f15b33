"""Drawing all pictures of a report, several at a time where the machine has the cores."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from hpcbench.report.cells import Row
from hpcbench.report.files import slug, slugs
from hpcbench.report.page import Pictures
from hpcbench.report.plots import PICTURES
from hpcbench.report.plots.fonts import ADVICE, VARIABLE, Font, chinese_font, is_plain
from hpcbench.report.plots.scene import Scene
from hpcbench.report.plots.style import save, style
from hpcbench.report.plots.summary import draw_summary
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH

SUMMARY = "summary"
SCENES_PER_WORKER = 3  # a worker needs a second to start: with fewer it does not pay


def draw_all(
    folder: Path, found: Sequence[Scene], rows: Sequence[Row], title: str, words: Words, problems: list[str]
) -> list[Pictures]:
    """Draw the summary, and every picture of every class and group; remove those of an earlier report.

    Without a font that has the signs of the language the pictures are in English, which `problems` is told.
    """
    needed = not all(map(is_plain, (words.title, title, *(scene.title for scene in found))))
    font = chinese_font() if needed else None
    spoken = words if font is not None or is_plain(words.title) else ENGLISH
    readable = [_readable(scene, font, spoken) for scene in found]
    if spoken is not words or any(a.title != b.title for a, b in zip(found, readable, strict=True)):
        problems.append(f"no font with Chinese signs was found, so pictures do without. {ADVICE}{VARIABLE}")
    names = [name for name in slugs([SUMMARY, *(scene.name for scene in found)]) if name != SUMMARY]
    made = [_draw_summary(folder, rows, title, spoken, font)]
    draw = partial(draw_scene, folder, font=font)
    workers = min(len(os.sched_getaffinity(0)), len(readable) // SCENES_PER_WORKER)
    if workers > 1:
        # Not fork: other libraries have threads of their own by now.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context) as pool:
            made += pool.map(draw, readable, names)
    else:
        made += map(draw, readable, names)
    return remove_others(folder, made)


def draw_scene(folder: Path, scene: Scene, name: str, *, font: Font | None) -> Pictures:
    """Draw every picture of one scene."""
    pictures = Pictures(title=scene.title)
    for picture, draw in PICTURES.items():
        with style(font):
            drawn = draw(scene)
            if drawn is None:
                pictures.left_out.append(picture)
                continue
            save(drawn, folder / f"{name}.{picture}")
            pictures.files[picture] = f"plots/{name}.{picture}"
    return pictures


def remove_others(folder: Path, made: list[Pictures]) -> list[Pictures]:
    """Remove the pictures of an earlier report that this one does not have; return those that it has."""
    kept = {Path(file).name for pictures in made for file in pictures.files.values()}
    for path in folder.glob("*"):
        if path.suffix in (".png", ".svg") and path.stem not in kept:
            path.unlink(missing_ok=True)
    return made


def _draw_summary(folder: Path, rows: Sequence[Row], title: str, words: Words, font: Font | None) -> Pictures:
    pictures = Pictures(title=title)
    with style(font):
        drawn = draw_summary(rows, title if font or is_plain(title) else slug(title), words)
        if drawn is not None:
            save(drawn, folder / SUMMARY)
            pictures.files[SUMMARY] = f"plots/{SUMMARY}"
    return pictures


def _readable(scene: Scene, font: Font | None, words: Words) -> Scene:
    title = scene.title if font is not None or is_plain(scene.title) else slug(scene.title)
    return dataclasses.replace(scene, title=title, words=words)
