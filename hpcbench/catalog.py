"""Everything that a sweep can name, from the three tables that stand beside what they name."""

from __future__ import annotations

from hpcbench.config.catalog import Catalog
from hpcbench.strategies import STRATEGIES
from hpcbench.training.data import DATASETS
from hpcbench.training.models import MODELS

CATALOG = Catalog(strategies=STRATEGIES, models=MODELS, datasets=DATASETS)
