"""Results folders become data frames: one row a repeat, one an epoch, one a step.

Nothing is ranked or judged here. A run whose records are broken is a row in state `unreadable`; it never
keeps the others from being read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import jsonlines
import pandas as pd

from hpcbench.analysis import rows
from hpcbench.analysis.cache import Cache, Look
from hpcbench.analysis.ceilings import Ceilings
from hpcbench.analysis.classes import label_classes
from hpcbench.analysis.digest import Digest
from hpcbench.analysis.figures import Figures
from hpcbench.analysis.history import History, State
from hpcbench.analysis.reading import Reference, read_runs
from hpcbench.analysis.stored import step_tables
from hpcbench.config.spec import RunSpec
from hpcbench.errors import RecordError, input_error
from hpcbench.records.ceiling_files import MeasuredCeiling, read_ceilings
from hpcbench.runs import ledger
from hpcbench.runs.results_folder import ResultsFolder


@dataclass(frozen=True, kw_only=True)
class Run:
    """One repeat of one run, as found in a results folder.

    `block` names the repeats that stood close in time: the same repeat of the same folder.
    """

    name: str
    repeat: int
    folder: ResultsFolder
    look: Look  # how its files looked before they were read
    digest: Digest

    @property
    def run_id(self) -> str:
        """The id that its spec.json states, empty where that can't be read."""
        return self.digest.run_id

    @property
    def spec(self) -> RunSpec | None:
        """What was to be done; None where that can't be read."""
        return self.digest.spec

    @property
    def history(self) -> History:
        """What happened, without its large parts."""
        return self.digest.history

    @property
    def figures(self) -> Figures | None:
        """Its figures; None where its records can't be read."""
        return self.digest.figures

    @property
    def block(self) -> str:
        """The repeats that were run side by side with this one."""
        return f"{self.folder.path}/r{self.repeat}"

    @property
    def place(self) -> str:
        """Where the run stands, for messages."""
        return f"{self.name}/r{self.repeat}"

    @property
    def configuration(self) -> str:
        """What all repeats of a run have in common and no other run has."""
        return self.digest.configuration


@dataclass(frozen=True)
class Loaded:
    """All that results folders hold, as frames, and what was wrong with them, in sentences.

    `keyed` are the runs themselves with the names that they have in the frames, `ceilings` what their nodes
    can do at most.
    """

    runs: pd.DataFrame
    epochs: pd.DataFrame
    problems: list[str]
    keyed: list[tuple[str, Run]]
    ceilings: Ceilings = field(default_factory=Ceilings)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """The steps of all runs: millions of rows, put together when somebody wants them."""
        tables = step_tables([run.digest.steps for _, run in self.keyed])
        return rows.step_frame(
            [(_key(name, run), table) for (name, run), table in zip(self.keyed, tables, strict=True)]
        )


def load(
    folders: Sequence[Path], *, blocks: Mapping[str, int] | None = None, cache: Cache | None = None
) -> Loaded:
    """Read results folders, as far as a cache does not know them.

    `blocks` is into how many parts each model can be cut, which a prediction of sharded runs needs.
    Raises InputError where a folder holds no results; broken records are problems, not errors.
    """
    problems: list[str] = []
    # A folder that is named twice is read once, at its last place.
    distinct = list(reversed(dict.fromkeys(path.resolve() for path in reversed(folders))))
    there = [each for path in distinct for each in _references(results_folder(path), problems)]
    found = [
        Run(name=each.name, repeat=each.repeat, folder=each.results, look=look, digest=digest)
        for each, (look, digest) in zip(there, read_runs(there, cache), strict=True)
    ]
    runs = _without_duplicates(found, problems)
    names = _experiment_names(runs, problems)
    for run in runs:
        problems += [f"{run.place}: {problem}" for problem in run.history.problems]
    labels = label_classes(run.spec for run in runs if run.spec)
    keyed = [(names[run.name, run.configuration], run) for run in runs]
    return Loaded(
        rows.frame(
            [_run_row(name, run, labels) for name, run in keyed], rows.RUN_COLUMNS, ("experiment", "repeat")
        ),
        rows.frame(
            [{**_key(name, run), **row} for name, run in keyed for row in run.digest.epochs],
            rows.EPOCH_COLUMNS,
            ("experiment", "repeat", "epoch"),
        ),
        problems,
        keyed,
        Ceilings.of(_read_ceilings(distinct, problems), blocks or {}),
    )


def _read_ceilings(folders: Sequence[Path], problems: list[str]) -> list[MeasuredCeiling]:
    found: list[MeasuredCeiling] = []
    for file in (file for path in folders for file in ResultsFolder(path).ceiling_files()):
        try:
            reading = read_ceilings(file)
        except (RecordError, OSError) as error:
            problems.append(f"{error}; the ceilings in this file were left out")
            continue
        found += reading.records
        problems += [f"{file}: a last line that was cut off, and dropped"] if reading.torn else []
    return sorted(found, key=lambda record: record.time_ns)


def _key(name: str, run: Run) -> rows.Row:
    return {"experiment": name, "repeat": run.repeat, "run_id": run.run_id}


def _run_row(name: str, run: Run, labels: dict[str, str]) -> rows.Row:
    at = run.folder.run(run.name, run.repeat).path
    common = {**_key(name, run), "sweep": run.folder.path.name, "block": run.block, "folder": str(at)}
    return {**common, **rows.run_row(run.history, run.spec, run.figures, labels)}


def results_folder(path: Path) -> ResultsFolder:
    """Return the results folder at a path. Raises InputError where there is none."""
    folder = ResultsFolder(path)
    if not path.is_dir():
        raise input_error("no such results folder", key=str(path))
    if folder.sweep.exists() or folder.ledger.exists() or (path / "runs").is_dir():
        return folder
    inside = sorted(p.name for p in path.iterdir() if (p / "runs").is_dir() or (p / "sweep.yaml").exists())
    raise input_error(
        "this is no results folder: it has neither sweep.yaml nor runs",
        key=str(path),
        hint=f"It holds the results of {', '.join(inside)}: name one of them" if inside else None,
    )


def _references(folder: ResultsFolder, problems: list[str]) -> list[Reference]:
    claims: dict[str, set[int]] = defaultdict(set)
    try:
        for _, entry in ledger.read_ledger(folder.ledger):
            if isinstance(entry, ledger.AttemptClaimed):
                claims[entry.run].add(entry.attempt)
    except (jsonlines.Error, OSError, AttributeError, KeyError, TypeError) as error:
        # The claims beside the records say the same; without the ledger nothing is lost but history.
        problems.append(f"{folder.ledger}: not readable ({error!r}); the claims in the run folders were used")
    return [
        Reference(folder, name, repeat, at, frozenset(claims[f"{name}/r{repeat}"]))
        for name, repeat, at in folder.runs()
    ]


def _without_duplicates(runs: list[Run], problems: list[str]) -> list[Run]:
    """Keep one run of each run id: a finished one before others, then the one of the later folder."""
    kept: dict[str, Run] = {}
    for index, run in enumerate(runs):
        key = run.run_id or f"unreadable {index}"
        other = kept.get(key)
        if other is None:
            kept[key] = run
            continue
        finished = State.FINISHED
        older_wins = other.history.state == finished and run.history.state != finished
        winner, loser = (other, run) if older_wins else (run, other)
        kept[key] = winner
        problems.append(
            f"{run.place}: found twice (run id {run.run_id}): the one in {winner.folder.path} counts "
            f"({winner.history.state}), the one in {loser.folder.path} ({loser.history.state}) does not"
        )
    return list(kept.values())


def _experiment_names(runs: list[Run], problems: list[str]) -> dict[tuple[str, str], str]:
    """Return the row name of each (name, configuration); one name for two things gets the sweep added."""
    places = {(run.name, run.configuration): run.folder.path.name for run in runs}
    uses = Counter(name for name, configuration in places if configuration)
    names: dict[tuple[str, str], str] = {}
    for (name, configuration), sweep in places.items():
        wanted = name
        if configuration and uses[name] > 1:
            wanted = f"{name} ({sweep})"
            if wanted in names.values():
                wanted = f"{name} ({sweep}, {configuration[:6]})"
        names[name, configuration] = wanted
    problems += [f"{name}: {n} different runs have this name" for name, n in uses.items() if n > 1]
    return names
