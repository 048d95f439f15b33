"""The catalogues of texts have every text of the code, and nothing else."""

from __future__ import annotations

import pickle
import re
import string

import pytest

from hpcbench.report.plots.pictures import PICTURES
from hpcbench.report.translations import LANGUAGES, Language
from tests.report.translation_catalogues import PACKAGE, catalogue_path, compiled, extracted, read_catalogue

TRANSLATED = [code for code in LANGUAGES if code != "en"]


def keys(messages: object) -> set[object]:
    """Return the contexts and texts of a catalogue, without its header."""
    return {(message.context, message.id) for message in messages if message.id}  # type: ignore[attr-defined]


def placeholders(text: str) -> set[str | None]:
    """Return the names in braces."""
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


@pytest.mark.parametrize("code", TRANSLATED)
def test_every_language_has_every_text(code: str) -> None:
    """Nothing is missing, superfluous, empty or uncertain: otherwise run `make translations`."""
    catalogue = read_catalogue(code)
    assert keys(catalogue) == keys(extracted())
    assert not catalogue.obsolete
    for message in catalogue:
        if message.id:
            assert message.string and not message.fuzzy, message.id


@pytest.mark.parametrize("code", TRANSLATED)
def test_placeholders_agree(code: str) -> None:
    """A translated text has the placeholders of the English one."""
    for message in read_catalogue(code):
        if message.id:
            assert placeholders(str(message.string)) == placeholders(str(message.id)), message.id


@pytest.mark.parametrize("code", TRANSLATED)
def test_compiled_catalogues_are_current(code: str) -> None:
    """The file that gettext reads has the texts of the one that people edit."""
    assert catalogue_path(code).with_suffix(".mo").read_bytes() == compiled(read_catalogue(code))


def test_extraction_finds_marked_texts() -> None:
    """Texts of code, of f-strings, of the page, of the audit's rules and of pictures are all extracted."""
    found = {text for _, text in keys(extracted())}
    assert {"Report: {sweeps}", "Share of updates (%)", "Skip to the ranking"} <= found
    assert {picture.caption for picture in PICTURES.values()} <= found
    template = (PACKAGE / "report" / "page" / "templates" / "report.html").read_text(encoding="utf-8")
    assert set(re.findall(r'_\("([^"]+)"\)', template)) <= found


def test_a_language_can_be_sent_to_another_process() -> None:
    """Pictures are drawn by other processes, in the language of the report."""
    sent = pickle.loads(pickle.dumps(Language("zh")))
    assert sent.text("Findings") == Language("zh").text("Findings") != "Findings"
