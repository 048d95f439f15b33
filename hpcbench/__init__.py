"""hpcbench: which distributed training strategy is fastest on these nodes, by how much, and how reliable
is that answer?
"""

from __future__ import annotations

__version__ = "0.1.0"
