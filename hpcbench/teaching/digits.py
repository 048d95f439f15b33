"""The digits through a faulty input pipeline, as study 2 had them."""

from __future__ import annotations

import time
from typing import Any

from torch import Tensor

from hpcbench.strategies.base import Batch
from hpcbench.training.data import FaultyDigitsOptions
from hpcbench.training.data.digits import Digits
from hpcbench.training.data.imagedata import Context

REMEMBERED = 64


class FaultyDigits(Digits):
    """Either the cache changes what is learnt, or every rank decodes the batches of all of them."""

    def __init__(self, options: FaultyDigitsOptions, context: Context) -> None:
        super().__init__(context.device, context.dtype)
        cached = context.spec.cache != "none"
        self._remembered = REMEMBERED if cached and options.mistake == "forgetful_cache" else None
        everything = context.spec.data_shards if options.mistake == "decodes_everything" else 0
        self._decoding_s = everything * options.decode_ms / 1e3

    def train_batch(self, samples: Tensor, epoch: int) -> Batch:
        """Return training samples, or those that the cache has in their place."""
        if self._decoding_s:
            time.sleep(self._decoding_s * len(samples))
        return super().train_batch(samples if self._remembered is None else samples % self._remembered, epoch)


def load(*, options: FaultyDigitsOptions, context: Context, **_: Any) -> FaultyDigits:
    """Return the data set on a device."""
    return FaultyDigits(options, context)
