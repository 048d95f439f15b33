"""The texts that a report translates, as the code has them; `make translations` updates the catalogues."""

from __future__ import annotations

import ast
import io
from collections.abc import Iterator
from pathlib import Path

from babel.messages.catalog import Catalog
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po
from jinja2.ext import babel_extract

from hpcbench.audit.rule_table import ALL_RULES
from hpcbench.report.translations import ENGLISH, LANGUAGES

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "hpcbench"
TEXT_FUNCTIONS = ("text", "N_")


def extracted() -> Catalog:
    """Return a catalogue of all texts of the code, the templates and the audit's rules."""
    catalog = Catalog(project="hpcbench", fuzzy=False)
    for path in sorted(PACKAGE.rglob("*.py")):
        for message, context in _messages_of_code(ast.parse(path.read_text(encoding="utf-8"))):
            catalog.add(message, context=context, locations=[(str(path.relative_to(ROOT)), 1)])
    for path in sorted((PACKAGE / "report").rglob("*.html")):
        with path.open("rb") as file:
            for _, _, message, _ in babel_extract(file, ["_"], [], {}):
                catalog.add(message, locations=[(str(path.relative_to(ROOT)), 1)])
    for rule in ALL_RULES:
        for message in (rule.what, rule.advice):
            catalog.add(message, locations=[("hpcbench/audit/rule_table.py", 1)])
    return catalog


def _messages_of_code(tree: ast.AST) -> Iterator[tuple[str, str | None]]:
    """Yield texts with their contexts; calls in f-strings too, which Babel's own extractor passes over."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        texts = [each.value for each in node.args if isinstance(each, ast.Constant)]
        texts = [text for text in texts if isinstance(text, str)]
        if name == "in_context" and len(texts) == 2:
            yield texts[1], texts[0]
        elif name in TEXT_FUNCTIONS and texts and isinstance(node.args[0], ast.Constant):
            yield texts[0], None


def catalogue_path(language: str) -> Path:
    """Return the file of a language's texts."""
    return PACKAGE / "report" / "locale" / language / "LC_MESSAGES" / "hpcbench.po"


def read_catalogue(language: str) -> Catalog:
    """Return the texts of a language."""
    with catalogue_path(language).open("rb") as file:
        return read_po(file, locale=language)


def compiled(catalog: Catalog) -> bytes:
    """Return a catalogue as gettext reads it."""
    file = io.BytesIO()
    write_mo(file, catalog)
    return file.getvalue()


def update(language: str) -> None:
    """Add new texts to a catalogue, remove those that are gone, and compile it."""
    path = catalogue_path(language)
    catalog = read_catalogue(language) if path.exists() else Catalog(locale=language, fuzzy=False)
    catalog.update(extracted(), no_fuzzy_matching=True, update_creation_date=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        write_po(file, catalog, width=110, ignore_obsolete=True, include_lineno=False)
    path.with_suffix(".mo").write_bytes(compiled(read_catalogue(language)))


if __name__ == "__main__":
    for code in LANGUAGES:
        if code != ENGLISH.code:
            update(code)
