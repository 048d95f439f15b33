"""Texts where not every sign can be shown as it is: in Markdown, and on terminals without Unicode."""

from __future__ import annotations

import html
import re

from rich.console import Console


def encodable(text: str, console: Console) -> str:
    """Return a text in signs that the console's encoding has."""
    if console.encoding.lower().startswith("utf"):
        return text
    plain = text.replace("±", "+-").replace("–", "-").replace("✗", "x")
    return plain.encode("ascii", "replace").decode("ascii")


def escape(text: str) -> str:
    """Return a text so that Markdown shows it as it is, whatever stands in it."""
    flat = " ".join(text.split())
    marked = re.sub(r"([\\`*\[\]|$~#])", r"\\\1", flat)
    # Between letters and digits an underscore means nothing; names are full of them.
    marked = re.sub(r"(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])", r"\\_", marked)
    return html.escape(marked, quote=False)
