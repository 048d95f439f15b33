"""Entry point of `python -m hpcbench.collect`, the same as `hpcbench collect`."""

from __future__ import annotations

import sys

from hpcbench.cli import verb

if __name__ == "__main__":
    sys.exit(verb("collect"))
