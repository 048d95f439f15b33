"""The languages of a report: English texts stand in the code, a gettext catalogue has the others."""

from __future__ import annotations

import gettext
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, reduce
from pathlib import Path

from hpcbench.errors import input_error

LANGUAGES = {"en": "en", "zh": "zh-CN"}  # value of `--lang` -> `lang` of the page


def N_(message: str) -> str:  # noqa: N802 (the customary name, which the extraction looks for)
    """Mark a constant text for translation; it is translated where it is shown."""
    return message


@dataclass(frozen=True)
class Language:
    """A language of a report. Small and picklable: pictures are drawn in other processes."""

    code: str

    def text(self, message: str, /, **values: object) -> str:
        """Return a text in this language, with values in its placeholders."""
        translated = _catalogue(self.code).gettext(message)
        return translated.format(**values) if values else translated

    def in_context(self, context: str, message: str) -> str:
        """Return the text of a message whose English has several meanings."""
        return _catalogue(self.code).pgettext(context, message)

    @property
    def html_lang(self) -> str:
        """The language tag of a page."""
        return LANGUAGES[self.code]

    @property
    def comma(self) -> str:
        """What separates the members of a list."""
        return self.in_context("punctuation", ", ")

    @property
    def colon(self) -> str:
        """What stands between a name and its explanation."""
        return self.in_context("punctuation", ": ")

    @property
    def stop(self) -> str:
        """What ends a sentence."""
        return self.in_context("punctuation", ".")

    def sentences(self, parts: Iterable[str]) -> str:
        """Return sentences as one text."""
        pattern = self.in_context("punctuation", "{first} {second}")
        return reduce(lambda first, second: pattern.format(first=first, second=second), parts)


ENGLISH = Language("en")


def language_of(code: str) -> Language:
    """Return a language. Raises InputError for one that has no catalogue."""
    if code not in LANGUAGES:
        raise input_error("unknown language", key="--lang", found=code, allowed=", ".join(LANGUAGES))
    return Language(code)


@cache
def _catalogue(code: str) -> gettext.NullTranslations:
    if code == ENGLISH.code:
        return gettext.NullTranslations()
    return gettext.translation("hpcbench", Path(__file__).with_name("locale"), [code])
