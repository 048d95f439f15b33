"""Entry point of `python -m hpcbench.submit`, the same as `hpcbench submit`."""

from __future__ import annotations

import sys

from hpcbench.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command("submit"))
