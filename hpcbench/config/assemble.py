"""Sweep files that include each other: read each once, expand them in order, choose the groups' runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from hpcbench.config.document import At, read_document
from hpcbench.config.fields import Fields
from hpcbench.config.groups import select
from hpcbench.config.layers import Layer
from hpcbench.config.plan import MAX_RUNS, Planned, Planner
from hpcbench.config.sections import GroupEntry, SectionReader, SweepFile
from hpcbench.config.spec import Group
from hpcbench.errors import InputError, input_error

MAX_INCLUDE_DEPTH = 50


@dataclass
class Reader:
    """Reads files and what they include, each once, by its real path."""

    fields: Fields
    files: dict[Path, SweepFile] = field(default_factory=dict)
    included: dict[Path, tuple[Path, ...]] = field(default_factory=dict)

    def read(self, path: Path, chain: tuple[Path, ...] = (), asked_by: At | None = None) -> Path:
        """Read a file and all that it includes, return its real path; `chain` are the files that led here."""
        real = path.resolve()
        if real in chain:
            names = " includes ".join(each.name for each in (*chain[chain.index(real) :], real))
            raise _cannot_include(asked_by, "the includes go round in a circle", names)
        if len(chain) > MAX_INCLUDE_DEPTH:
            raise _cannot_include(asked_by, f"includes are nested deeper than {MAX_INCLUDE_DEPTH}", str(path))
        if real not in self.files:
            document = read_document(path, asked_by=asked_by)
            self.files[real] = file = SectionReader(document, self.fields).read()
            self.included[real] = tuple(
                self.read(document.folder / name, (*chain, real), document.at(("include", number)))
                for number, name in enumerate(file.include)
            )
        return real


def _cannot_include(asked_by: At | None, problem: str, found: str) -> InputError:
    at = asked_by or At(place=None, key=None)
    return input_error(problem, **at, found=found)


@dataclass
class Assembler:
    """Expands what was read. A file's groups choose among its own runs and those that it includes."""

    reader: Reader
    planner: Planner
    groups: dict[str, Group] = field(default_factory=dict)
    _runs: dict[Path, list[Planned]] = field(default_factory=dict)
    _origin: dict[str, GroupEntry] = field(default_factory=dict)

    def refuse_too_many(self) -> None:
        """Raise for more combinations than a sweep may have, before any is made."""
        total = 0
        for file in self.reader.files.values():
            total += self.planner.size(file)
            if total > MAX_RUNS:
                at = file.document.at(("runs",))
                raise input_error(
                    "too many runs", **at, found=total, allowed=f"up to {MAX_RUNS:,} in a sweep"
                )

    def expand(self, path: Path, sites: tuple[Layer, ...] = ()) -> list[Planned]:
        """Return the runs of a file, those of included files first; each file is expanded once."""
        if path not in self._runs:
            file = self.reader.files[path]
            around = (*sites, file.site)
            runs = [run for each in self.reader.included[path] for run in self.expand(each, around)]
            runs += self.planner.runs(file, sites)
            self._runs[path] = runs
            for entry in file.groups:
                self._add_group(entry, runs)
        return self._runs[path]

    def _add_group(self, entry: GroupEntry, runs: list[Planned]) -> None:
        earlier = self._origin.setdefault(entry.id, entry)
        if earlier is not entry:
            raise input_error(
                f"two groups have this id, the first in {earlier.at('id')['place']}",
                **entry.at("id"),
                found=entry.id,
                hint="Give each an id of its own",
            )
        self.groups[entry.id] = select(entry, runs)
