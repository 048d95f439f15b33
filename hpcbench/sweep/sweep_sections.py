"""Reads one sweep file section by section and checks each value at its line. Nothing is expanded here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import starmap
from pathlib import Path
from typing import Any

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
_ENTRY_KEYS = ("grid", "exclude")
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
        """The location of the entry."""
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
        """Return the location of a part of the entry."""
        return self.document.at((*self.root, *path))


@dataclass(frozen=True)
class SweepFile:
    """The content of one file. `site` has its resources and container, the defaults of included files."""

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
        in_defaults = {key: f"Set it in defaults: {{{key}: ..}}, or in a run" for key in self.schema.children}
        self.top = as_map(document, "a sweep file is a map of sections", SECTIONS, hints=in_defaults)
        self._require_version()

    def read(self) -> SweepFile:
        """Return the file's sections; raises InputError at the first mistake."""
        at, top = self.document.at, self.top
        name = self._text(("name",), top["name"]) if "name" in top else Path(self.document.file).stem
        return SweepFile(
            document=self.document,
            name=check_name(name, at(("name",)), what="name of a sweep"),
            include=self._texts(("include",), top.get("include", [])),
            data=self._data(),
            site=self._layer((), {key: top[key] for key in ("resources", "container") if key in top}),
            defaults=self._layer(("defaults",), self._map("defaults")),
            entries=tuple(starmap(self._entry, enumerate(self._list(("runs",), top.get("runs", []))))),
            groups=tuple(starmap(self._group, enumerate(self._list(("groups",), top.get("groups", []))))),
            smoke_gpus=self._smoke(),
            pack=self._pack(),
        )

    def _require_version(self) -> None:
        if "version" not in self.top:
            raise self.document.error(("version",), "the version is missing", hint=f"Add version: {VERSION}")
        found = self.top["version"]
        if found != VERSION or isinstance(found, bool):
            raise self.document.error(
                ("version",),
                "this hpcbench reads another version of the sweep file",
                found=found,
                allowed=str(VERSION),
            )

    def _layer(self, root: KeyPath, value: dict[str, Any]) -> SettingLayer:
        for key in _ENTRY_KEYS:
            if key in value:
                raise self.document.error(
                    (*root, key), f"{key} is no field of every run", hint="Set it in a run"
                )
        return layer_of(self.schema, self.document, root, value, general=True)

    def _entry(self, number: int, value: Any) -> RunEntry:
        root: KeyPath = ("runs", number)
        if not isinstance(value, dict):
            raise self.document.error(
                root, "a run is a map", found=value or "nothing", allowed="{strategy: ..}"
            )
        settings = {key: setting for key, setting in value.items() if key not in _ENTRY_KEYS}
        patterns = value.get("exclude", [])
        if not isinstance(patterns, list):
            raise self.document.error(
                (*root, "exclude"),
                "not a list of maps",
                found=patterns or "null",
                allowed="[{field: value}]",
            )
        return RunEntry(
            self.document,
            root,
            layer_of(self.schema, self.document, root, settings),
            read_grid(self.schema, self.document, (*root, "grid"), value.get("grid", {})),
            tuple(
                self.fields.pattern(pattern, self.document.at, (*root, "exclude", index))
                for index, pattern in enumerate(patterns)
            ),
        )

    def _group(self, number: int, value: Any) -> GroupEntry:
        root: KeyPath = ("groups", number)
        at = self.document.at
        group = as_map(self.document, "a group is a map", _GROUP_KEYS, root, value)
        for key in ("id", "factor"):
            if key not in group:
                raise self.document.error(root, f"a group needs {key}", allowed=", ".join(_GROUP_KEYS))
        if "where" in group and "runs" in group:
            raise self.document.error(
                (*root, "runs"), "where and runs exclude each other", allowed="one of them"
            )
        name = check_name(self._text((*root, "id"), group["id"]), at((*root, "id")), what="id of a group")
        title = self._text((*root, "title"), group["title"]) if "title" in group else name
        if len(title) > MAX_TITLE or "\n" in title:
            raise self.document.error(
                (*root, "title"), "not a usable title", found=title, allowed=f"a line of up to {MAX_TITLE}"
            )
        where = group.get("where")
        return GroupEntry(
            self.document,
            root,
            name,
            title,
            self._factor(root, group),
            None if where is None or where == {} else self.fields.pattern(where, at, (*root, "where")),
            self._texts((*root, "runs"), group["runs"]) if "runs" in group else None,
        )

    def _factor(self, root: KeyPath, group: dict[str, Any]) -> tuple[str, ...]:
        path, names = (*root, "factor"), group["factor"]
        names = self._list(path, [names] if isinstance(names, str) else names)
        if not names:
            raise self.document.error(path, "a group compares something", found=names)
        for name in names:
            known = any(field == name or field.startswith(f"{name}.") for field in self.fields.leaves)
            if not isinstance(name, str) or not known:
                raise self.fields.unknown(str(name), self.document.at, path)
        return tuple(names)

    def _data(self) -> dict[str, str]:
        known = self.fields.catalog.datasets
        data = self._map("data")
        for key in data:
            if key not in known:
                raise self.document.error(
                    ("data", key),
                    "unknown data set",
                    found=key,
                    allowed=", ".join(known),
                    hint=did_you_mean(key, known),
                )
        return {key: self._text(("data", key), folder) for key, folder in data.items()}

    def _smoke(self) -> int | None:
        gpus = self.top.get("smoke")
        if gpus is None or (isinstance(gpus, int) and not isinstance(gpus, bool) and gpus >= 0):
            return gpus
        raise self.document.error(
            ("smoke",), "not a number of GPUs", found=gpus, hint="Give --smoke on the command line"
        )

    def _pack(self) -> bool | int:
        pack = self.top.get("pack", True)
        if isinstance(pack, bool) or (isinstance(pack, int) and 1 <= pack <= MAX_PACK):
            return pack
        raise self.document.error(
            ("pack",),
            "not a way to pack runs",
            found="null" if pack is None else pack,
            allowed=f"true, false, or a number of allocations from 1 to {MAX_PACK}",
        )

    def _map(self, section: str) -> dict[str, Any]:
        value = self.top.get(section)
        if section in self.top and not isinstance(value, dict):
            raise self.document.error((section,), "not a map", found=value or "nothing")
        return value or {}

    def _list(self, path: KeyPath, value: Any) -> list[Any]:
        if not isinstance(value, list):
            raise self.document.error(path, "not a list", found=value or "nothing")
        return value

    def _texts(self, path: KeyPath, value: Any) -> tuple[str, ...]:
        """Return a list of texts; a single text is a list of one."""
        texts = self._list(path, [value] if isinstance(value, str) else value)
        return tuple(self._text((*path, index), text) for index, text in enumerate(texts))

    def _text(self, path: KeyPath, value: Any) -> str:
        if not isinstance(value, str) or not value:
            raise self.document.error(
                path, "not text", found=value or "nothing", hint=None if value is None else "Put it in quotes"
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
        raise document.error((), "the file is empty", hint="docs/sweeps.md shows a sweep file")
    if not isinstance(value, dict):
        kind = "a list" if isinstance(value, list) else value or "nothing"
        raise document.error(root, problem, found=kind, allowed=f"a map with {', '.join(keys)}")
    for key in value:
        if key not in keys:
            raise document.error(
                (*root, key),
                "unknown key",
                found=key,
                allowed=", ".join(keys),
                hint=(hints or {}).get(key) or did_you_mean(key, keys),
            )
    return value
