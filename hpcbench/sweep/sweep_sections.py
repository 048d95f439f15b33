"""Reads one sweep file section by section and checks each value at its line. Nothing is expanded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hpcbench.errors import input_error
from hpcbench.sweep.grid_axes import Grid, read_grid
from hpcbench.sweep.run_names import FieldPattern, RunFields, check_name
from hpcbench.sweep.setting_layers import SettingLayer, layer_of
from hpcbench.sweep.value_schema import did_you_mean
from hpcbench.sweep.yaml_document import KeyLocation, KeyPath, YamlDocument

VERSION = 1
SECTIONS = (
    "version", "name", "include", "data", "defaults", "resources", "container", "pack", "runs", "groups",
    "smoke",
)  # fmt: skip
_OF_ENTRY = ("grid", "exclude")
_GROUP_KEYS = ("id", "title", "factor", "where", "runs")
MAX_TITLE = 200
MAX_PACK = 10_000


@dataclass(frozen=True)
class RunEntry:
    """One item of `runs`."""

    document: YamlDocument
    root: KeyPath
    layer: SettingLayer
    grid: Grid
    exclude: tuple[FieldPattern, ...]

    @property
    def at(self) -> KeyLocation:
        """Where the entry stands."""
        return self.document.at(self.root)


@dataclass(frozen=True)
class GroupEntry:
    """One item of `groups`; `runs` are globs, `where` a pattern, at most one of them."""

    document: YamlDocument
    root: KeyPath
    id: str
    title: str
    factor: tuple[str, ...]
    where: FieldPattern | None
    runs: tuple[str, ...] | None

    def at(self, *path: str | int) -> KeyLocation:
        """Say where a part of the entry stands."""
        return self.document.at((*self.root, *path))


@dataclass(frozen=True)
class SweepFile:
    """A file as it is written. `site` has its resources and container, which included files fall back on."""

    document: YamlDocument
    name: str
    include: tuple[str, ...]
    data: Mapping[str, str]
    site: SettingLayer
    defaults: SettingLayer
    entries: tuple[RunEntry, ...]
    groups: tuple[GroupEntry, ...]
    smoke_gpus: int | None
    pack: bool | int


class SectionReader:
    """Reads the sections of a document."""

    def __init__(self, document: YamlDocument, fields: RunFields) -> None:
        self.document, self.fields, self.schema = document, fields, fields.schema
        in_defaults = {key: f"Say it in defaults: {{{key}: ..}}, or in a run" for key in self.schema.children}
        self.top = as_map(document, "a sweep file is a map of sections", SECTIONS, hints=in_defaults)
        self._require_version()

    def read(self) -> SweepFile:
        """Return the file's sections; raises InputError at the first thing that is wrong."""
        at, top = self.document.at, self.top
        name = self._text(("name",), top["name"]) if "name" in top else Path(self.document.file).stem
        return SweepFile(
            document=self.document,
            name=check_name(name, at(("name",)), what="name of a sweep"),
            include=tuple(
                self._text(("include", number), each)
                for number, each in enumerate(self._list("include", True))
            ),
            data=self._data(),
            site=self._layer((), {key: top[key] for key in ("resources", "container") if key in top}),
            defaults=self._layer(("defaults",), self._map("defaults")),
            entries=tuple(self._entry(number, each) for number, each in enumerate(self._list("runs"))),
            groups=tuple(self._group(number, each) for number, each in enumerate(self._list("groups"))),
            smoke_gpus=self._smoke(),
            pack=self._pack(),
        )

    def _require_version(self) -> None:
        if "version" not in self.top:
            raise input_error(
                "the version is missing", **self.document.at(("version",)), hint=f"Add version: {VERSION}"
            )
        found = self.top["version"]
        if found != VERSION or isinstance(found, bool):
            raise input_error(
                "this hpcbench reads another version of the sweep file",
                **self.document.at(("version",)),
                found=found,
                allowed=str(VERSION),
            )

    def _layer(self, root: KeyPath, value: dict[str, Any]) -> SettingLayer:
        self._refuse_in_defaults(root, value)
        return layer_of(self.schema, self.document, root, value, general=True)

    def _refuse_in_defaults(self, root: KeyPath, value: dict[str, Any]) -> None:
        for key in _OF_ENTRY:
            if key in value:
                raise input_error(
                    f"{key} is no field of every run",
                    **self.document.at((*root, key)),
                    hint="Say it in a run",
                )

    def _entry(self, number: int, value: Any) -> RunEntry:
        root: KeyPath = ("runs", number)
        if not isinstance(value, dict):
            raise input_error(
                "a run is a map", **self.document.at(root), found=value or "nothing", allowed="{strategy: ..}"
            )
        said = {key: each for key, each in value.items() if key not in _OF_ENTRY}
        patterns = value.get("exclude", [])
        if not isinstance(patterns, list):
            at = self.document.at((*root, "exclude"))
            raise input_error(
                "not a list of maps", **at, found=patterns or "null", allowed="[{field: value}]"
            )
        return RunEntry(
            self.document,
            root,
            layer_of(self.schema, self.document, root, said),
            read_grid(self.schema, self.document, (*root, "grid"), value.get("grid", {})),
            tuple(
                self.fields.pattern(each, self.document.at, (*root, "exclude", index))
                for index, each in enumerate(patterns)
            ),
        )

    def _group(self, number: int, value: Any) -> GroupEntry:
        root: KeyPath = ("groups", number)
        at = self.document.at
        group = as_map(self.document, "a group is a map", _GROUP_KEYS, root, value)
        for key in ("id", "factor"):
            if key not in group:
                raise input_error(f"a group needs {key}", **at(root), allowed=", ".join(_GROUP_KEYS))
        if "where" in group and "runs" in group:
            raise input_error("where and runs stand together", **at((*root, "runs")), allowed="one of them")
        name = check_name(self._text((*root, "id"), group["id"]), at((*root, "id")), what="id of a group")
        title = self._text((*root, "title"), group["title"]) if "title" in group else name
        if len(title) > MAX_TITLE or "\n" in title:
            raise input_error(
                "not a usable title",
                **at((*root, "title")),
                found=title,
                allowed=f"a line of up to {MAX_TITLE}",
            )
        where = group.get("where")
        runs = self._list("runs", True, root, group) if "runs" in group else None
        return GroupEntry(
            self.document,
            root,
            name,
            title,
            self._factor(root, group),
            None if where is None or where == {} else self.fields.pattern(where, at, (*root, "where")),
            None
            if runs is None
            else tuple(self._text((*root, "runs", i), each) for i, each in enumerate(runs)),
        )

    def _factor(self, root: KeyPath, group: dict[str, Any]) -> tuple[str, ...]:
        words = self._list("factor", True, root, group)
        if not words:
            raise input_error(
                "a group compares something", **self.document.at((*root, "factor")), found=words
            )
        for word in words:
            known = any(each == word or each.startswith(f"{word}.") for each in self.fields.leaves)
            if not isinstance(word, str) or not known:
                raise self.fields.unknown(str(word), self.document.at, (*root, "factor"))
        return tuple(words)

    def _data(self) -> dict[str, str]:
        known = self.fields.catalog.datasets
        data = self._map("data")
        for key in data:
            if key not in known:
                raise input_error(
                    "unknown data set",
                    **self.document.at(("data", key)),
                    found=key,
                    allowed=", ".join(known),
                    hint=did_you_mean(key, known),
                )
        return {key: self._text(("data", key), folder) for key, folder in data.items()}

    def _smoke(self) -> int | None:
        gpus = self.top.get("smoke")
        if gpus is None or (isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 0):
            return gpus
        at = self.document.at(("smoke",))
        raise input_error("not a number of GPUs", **at, found=gpus, hint="Give --smoke on the command line")

    def _pack(self) -> bool | int:
        pack = self.top.get("pack", True)
        if isinstance(pack, bool) or (isinstance(pack, int) and 1 <= pack <= MAX_PACK):
            return pack
        raise input_error(
            "not a way to pack runs",
            **self.document.at(("pack",)),
            found="null" if pack is None else pack,
            allowed=f"true, false, or a number of allocations from 1 to {MAX_PACK}",
        )

    def _map(self, section: str) -> dict[str, Any]:
        value = self.top.get(section)
        if section in self.top and not isinstance(value, dict):
            raise input_error("not a map", **self.document.at((section,)), found=value or "nothing")
        return value or {}

    def _list(
        self, key: str, single: bool = False, root: KeyPath = (), around: dict[str, Any] | None = None
    ) -> list[Any]:
        """Return the list at a key; where `single` is allowed, one word stands for a list of it."""
        around = self.top if around is None else around
        value = around.get(key, [])
        if single and isinstance(value, str):
            return [value]
        if not isinstance(value, list):
            raise input_error("not a list", **self.document.at((*root, key)), found=value or "nothing")
        return value

    def _text(self, path: KeyPath, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise input_error(
                "not text",
                **self.document.at(path),
                found=value or "nothing",
                hint=None if value is None else "Put it in quotes",
            )
        return value


def as_map(
    document: YamlDocument,
    problem: str,
    keys: tuple[str, ...],
    root: KeyPath = (),
    value: Any = None,
    *,
    hints: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return a map of known keys, by default the whole document; `hints` are for likely unknown ones."""
    value = value if root else document.value
    if root == () and value is None:
        raise input_error("the file is empty", **document.at(()), hint="docs/sweeps.md shows a sweep file")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else value or "nothing"
        raise input_error(problem, **document.at(root), found=kind, allowed=f"a map with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise input_error(
                "unknown key",
                **document.at((*root, key)),
                found=key,
                allowed=", ".join(keys),
                hint=(hints or {}).get(key) or did_you_mean(key, keys),
            )
    return value
