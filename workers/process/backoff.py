"""How long to wait before another attempt: longer each time, until something worked."""

from __future__ import annotations

import random
import threading
from typing import Final

FIRST_DELAY_S: Final = 0.2
LONGEST_DELAY_S: Final = 5.0


class Backoff:
    """Waits between attempts.

    Who connects says `worked` when it has done what it connects for, not when it connected: a server may take each
    connection and refuse what follows.
    """

    def __init__(self, first_s: float = FIRST_DELAY_S, longest_s: float = LONGEST_DELAY_S) -> None:
        self._first_s = self.delay_s = first_s
        self._longest_s = longest_s

    def worked(self) -> None:
        self.delay_s = self._first_s

    def wait(self, stopping: threading.Event) -> None:
        """Wait up to `delay_s`, the next time twice as long; returns at once when `stopping` is set."""
        stopping.wait(self.delay_s * random.uniform(0.5, 1))  # noqa: S311 - spreads reconnections, no secret
        self.delay_s = min(self.delay_s * 2, self._longest_s)
