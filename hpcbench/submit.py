"""Entry point of `python -m hpcbench.submit`, the same as `hpcbench submit`."""

from __future__ import annotations

import sys

from hpcbench.cli import verb

if __name__ == "__main__":
    sys.exit(verb("submit"))
