"""Results published by the two studies, row by row, for comparison with measured ones."""

from __future__ import annotations

import csv
import re
from functools import cache
from importlib import resources

CIFAR100, CIFAR100_GROUPS, IMAGENET = "seed_cifar100.csv", "seed_cifar100_groups.csv", "seed_imagenet.csv"


@cache
def published_rows(file: str) -> dict[str, dict[str, str]]:
    """Return the rows of one of the tables by `key` of their first column."""
    text = (resources.files("hpcbench.reference") / file).read_text(encoding="utf-8")
    return {run_name_key(next(iter(row.values()))): row for row in csv.DictReader(text.splitlines())}


def run_name_key(name: str) -> str:
    """Return a name as runs may have it: `Manual All-Reduce` is the run `manual_all_reduce`."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
