"""The languages in which a report can be written."""

from __future__ import annotations

from hpcbench.errors import input_error
from hpcbench.report.words import Words
from hpcbench.report.words_en import ENGLISH
from hpcbench.report.words_zh import CHINESE

LANGUAGES = {"en": ENGLISH, "zh": CHINESE}


def words_of_language(lang: str) -> Words:
    """Return a language's words. Raises InputError for one that is not spoken."""
    if lang not in LANGUAGES:
        raise input_error("no such language", key="--lang", found=lang, allowed=", ".join(LANGUAGES))
    return LANGUAGES[lang]
