"""Entry point of `python -m hpcbench.status`, the same as `hpcbench status`."""

from __future__ import annotations

import sys

from hpcbench.cli import verb

if __name__ == "__main__":
    sys.exit(verb("status"))
