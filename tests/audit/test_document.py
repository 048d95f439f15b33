"""docs/audit.md and the command line of the audit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hpcbench import cli
from hpcbench.audit.rule_table import ALL_RULES, rules_document
from tests.audit.really import ROOT

STUDY1 = Path(__file__).parent / "tables" / "study1.csv"


def test_the_page_is_what_the_rules_say() -> None:
    """docs/audit.md is written from the rules; after a change it has to be written again."""
    assert (ROOT / "docs" / "audit.md").read_text(encoding="utf-8") == rules_document()


def test_codes_are_unique_words() -> None:
    """A code names one rule, in lower case with hyphens, and has advice and a condition."""
    codes = [rule.code for rule in ALL_RULES]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in codes)
    assert all(rule.advice.endswith(".") and rule.what.endswith(".") and rule.when for rule in ALL_RULES)


def test_the_verb_reads_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Findings go to stdout with exit status 1; what could not be judged is said on stderr."""
    assert cli.main(["audit", str(STUDY1), "--samples-per-epoch", "1281167"]) == 1
    assert "4/3 fits 4 ranks counted and 3 training" in capsys.readouterr().out
    assert cli.main(["audit", str(STUDY1)]) == 0
    assert "--samples-per-epoch" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["0", "-1", "1.5", "x", "1e3"])
def test_numbers_of_the_command_line_are_checked(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Anything but a whole number of 1 or more is refused with exit status 2."""
    with pytest.raises(SystemExit) as left:
        cli.main(["audit", str(STUDY1), f"--epochs={option}"])
    assert left.value.code == 2
    assert "is no number of 1 or more" in capsys.readouterr().err


def test_a_missing_target_is_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No traceback, exit status 2."""
    assert cli.main(["audit", str(tmp_path / "none")]) == 2
    assert "no such table" in capsys.readouterr().err


def test_every_rule_cites_the_methodology() -> None:
    """A rule names the paragraph that it enforces; nothing cites a document that is not published."""
    assert [
        rule.code for rule in ALL_RULES if not re.match(r"docs/methodology\.md, M\d+\b", rule.source)
    ] == []
    sources = "".join(path.read_text() for path in (ROOT / "hpcbench" / "audit").rglob("*.py"))
    assert not re.search(r"MEASURING|DESIGN section", sources)
