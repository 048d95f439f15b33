"""The README in both languages says the same commands, and what it links is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"


def blocks(path: Path) -> list[tuple[str, list[str]]]:
    """Return language and lines of each code block, without comments."""
    found = re.findall(r"^```(\w+)\n(.*?)^```$", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [
        (language, [re.sub(r"\s+#.*", "", line) for line in text.splitlines()]) for language, text in found
    ]


def links(path: Path) -> set[str]:
    """Return what a page links on this disk."""
    return {
        link for link in re.findall(r"\]\(([^)]+)\)", path.read_text(encoding="utf-8")) if "://" not in link
    }


def test_both_languages_have_the_same_commands() -> None:
    """Each code block is the same, in the same order; only its comments are translated."""
    assert len(blocks(ENGLISH)) >= 4
    assert blocks(CHINESE) == blocks(ENGLISH)


def test_comments_of_commands_are_translated() -> None:
    """The Chinese page has a comment where the English one has, and not the same."""
    for english, chinese in zip(*(comments(path) for path in (ENGLISH, CHINESE)), strict=True):
        assert english != chinese


def comments(path: Path) -> list[str]:
    """Return the comments behind commands."""
    return re.findall(r"^\S.*?\s+# (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


@pytest.mark.parametrize("path", [ENGLISH, CHINESE], ids=["en", "zh"])
def test_what_is_linked_is_there(path: Path) -> None:
    """Every link leads to a file of the repository, and each language to the other."""
    missing = {link for link in links(path) if not (ROOT / link.partition("#")[0]).exists()}
    assert missing == set()
    assert ({"README.md", "README.zh-CN.md"} - {path.name}) <= links(path)


def test_both_languages_link_the_same_pages() -> None:
    """Neither page knows more than the other."""
    assert links(ENGLISH) ^ links(CHINESE) == {"README.md", "README.zh-CN.md"}
