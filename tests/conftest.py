"""What holds for all tests."""

from __future__ import annotations

import signal

# A runner in the background may have Ctrl-C ignored, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
