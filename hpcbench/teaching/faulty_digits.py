"""The data set `faulty_digits`: the digits through a faulty input pipeline."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from hpcbench.tasks.batches import Batch
from hpcbench.tasks.image_pipeline import DataContext
from hpcbench.tasks.in_memory_datasets import Digits
from hpcbench.tasks.task_registry import FaultyDigitsOptions

CACHE_SAMPLES = 64


class FaultyDigits(Digits):
    """Either the cache changes what is learnt, or every rank decodes the batches of all of them."""

    def __init__(self, options: FaultyDigitsOptions, context: DataContext) -> None:
        super().__init__(context.device, context.dtype)
        cached = context.spec.cache != "none"
        self._remembered = CACHE_SAMPLES if cached and options.mistake == "forgetful_cache" else None
        everything = context.spec.data_shards if options.mistake == "decodes_everything" else 0
        self._decoding_s = everything * options.decode_ms / 1e3

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return training samples, or those that the cache has in their place."""
        if self._decoding_s:
            time.sleep(self._decoding_s * len(samples))
        return super().train_batch(samples if self._remembered is None else samples % self._remembered, epoch)


def load_faulty_digits_dataset(
    *, options: FaultyDigitsOptions, context: DataContext, **_: Any
) -> FaultyDigits:
    """Return the data set on a device."""
    return FaultyDigits(options, context)
