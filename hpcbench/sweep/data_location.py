"""Where the data sets of a sweep are."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from hpcbench.sweep.catalog_entries import Catalog

if TYPE_CHECKING:
    from hpcbench.sweep.sweep_sections import SweepFile

ROOT_VARIABLE = "HPCBENCH_DATA"
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


def locate_data(
    files: Iterable[SweepFile], used: Iterable[str], catalog: Catalog, root: str | None, *, smoke: bool
) -> dict[str, str]:
    """Return the folder of each data set that a sweep names or needs.

    The root is `--data`, else the variable HPCBENCH_DATA. With one, a data set is in the folder of its name
    inside it, or in the folder that `data` gives it with `$HPCBENCH_DATA`; without one, where `data` puts it.
    Of several files the outermost that names a data set counts. Raises InputError for a variable that a run
    needs and that is not set.
    """
    root = root or os.environ.get(ROOT_VARIABLE) or None
    environment = {**os.environ, **({ROOT_VARIABLE: root} if root else {})}
    needed = {name for name in used if catalog.datasets[name].needs_files and not smoke}
    folders: dict[str, str] = {}
    for file in files:
        for name, text in file.data.items():
            if name not in folders:
                folder = _folder(file, name, text, environment, root, needed=name in needed)
                folders |= {name: folder} if folder else {}
    if root:
        folders = {name: str(Path(root).absolute() / name) for name in sorted(needed)} | folders
    return folders


def _folder(
    file: SweepFile, name: str, text: str, environment: Mapping[str, str], root: str | None, *, needed: bool
) -> str | None:
    variables = [braced or plain for braced, plain in _VARIABLE.findall(text)]
    if root and ROOT_VARIABLE not in variables:
        return str(Path(root).absolute() / name)
    missing = [variable for variable in variables if variable not in environment]
    if missing and needed:
        raise file.document.error(
            ("data", name),
            f"the environment variable {missing[0]} is not set",
            found=text,
            hint="Set it, or give --data DIR",
        )
    if missing:
        return None
    expanded = _VARIABLE.sub(lambda match: environment[match[1] or match[2]], text)
    return str((file.document.folder / Path(expanded).expanduser()).absolute())
