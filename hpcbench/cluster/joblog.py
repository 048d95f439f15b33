"""What a job prints into its log."""

from __future__ import annotations

import sys
import time


def say(text: str) -> None:
    """Note what happens, and when."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
