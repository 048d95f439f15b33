"""Fonts that have Chinese signs: the one that matplotlib brings has none."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from matplotlib import font_manager

from hpcbench.errors import input_error

VARIABLE = "HPCBENCH_FONT"
ADVICE = "Install one (Debian: fonts-noto-cjk; else Source Han Sans or WenQuanYi), or name one in "
KNOWN = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Source Han Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "SimHei", "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC", "AR PL UMing CN", "Droid Sans Fallback",
)  # fmt: skip
# The same fonts as files.
FILES = (
    "NotoSansCJK-Regular",
    "NotoSansSC-Regular",
    "SourceHanSans.*Regular",
    "wqy-",
    "msyh",
    "simhei",
    "PingFang",
)


@dataclass(frozen=True)
class Font:
    """A family of fonts, and its file where matplotlib does not know it by itself."""

    family: str
    file: str | None = None

    def load(self) -> None:
        """Make it known to matplotlib in this process, once."""
        if self.file and self.family not in {font.name for font in font_manager.fontManager.ttflist}:
            bold = Path(self.file.replace("-Regular", "-Bold"))  # of titles
            for file in {Path(self.file), bold} if bold.is_file() else {Path(self.file)}:
                font_manager.fontManager.addfont(file)


def chinese_font(environment: Mapping[str, str] = os.environ) -> Font | None:
    """Return a font with Chinese signs; None where there is none.

    HPCBENCH_FONT names a file or a family. Raises InputError where that is no font.
    """
    named = environment.get(VARIABLE)
    if named:
        return _named(named)
    installed = _families()
    found = next((family for family in KNOWN if family in installed), None)
    return Font(found) if found else _installed_since()


def _families() -> set[str]:
    return {font.name for font in font_manager.fontManager.ttflist}


def _of_file(path: Path) -> Font:
    return Font(str(font_manager.FontProperties(fname=path).get_name()), str(path))


def _installed_since() -> Font | None:
    """Return a font that matplotlib, which keeps a list from its first start, does not know yet."""
    files = sorted(font_manager.findSystemFonts())
    matching = (file for pattern in FILES for file in files if re.search(pattern, Path(file).name))
    first = next(matching, None)
    return _of_file(Path(first)) if first else None


def _named(named: str) -> Font:
    path = Path(named).expanduser()
    if path.is_file():
        try:
            return _of_file(path)
        except (RuntimeError, OSError) as error:
            raise input_error("this is no font", key=VARIABLE, found=named) from error
    if named not in _families():
        raise input_error(
            "no such font",
            key=VARIABLE,
            found=named,
            allowed="a font file, or the family of an installed font",
        )
    return Font(named)


def is_plain(text: str) -> bool:
    """Say whether the font of matplotlib has all signs of a text, as far as that can be said from outside."""
    return all(ord(sign) < 0x2E80 for sign in text)
