"""What holds for all tests."""

from __future__ import annotations

import signal

from hypothesis import settings

# A runner in the background may have Ctrl-C ignored, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A property is about values, not about time: the first example may import half of scipy on a busy machine.
settings.register_profile("house", deadline=None)
settings.load_profile("house")
