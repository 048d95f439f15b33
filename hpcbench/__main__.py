"""Entry point of `python -m hpcbench`."""

from __future__ import annotations

import sys

from hpcbench.cli import main

if __name__ == "__main__":
    sys.exit(main())
