"""What is in the way, said once: a line when it begins or changes, one a minute, and one when it is over."""

from __future__ import annotations

import threading
import time
from typing import Final

from caselog.workers.process.logs import get_logger

AGAIN_S: Final = 60.0


class Trouble:
    """One thing that may be in the way of a worker, who tries again and again. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._error: str | None = None
        self._since_s = self._said_s = 0.0

    def tell(self, what: str, error: object, **details: object) -> None:
        """A warning, unless the same error was said within the last `AGAIN_S` seconds."""
        said, now_s = str(error), time.monotonic()
        with self._lock:
            if self._error is None:
                self._since_s = now_s
            if said == self._error and now_s - self._said_s < AGAIN_S:
                return
            self._error, self._said_s = said, now_s
            for_s = round(now_s - self._since_s, 1)
        get_logger().warning(what, error=said, for_s=for_s, **details)

    def end(self, what: str, **details: object) -> None:
        """A line where something was in the way, with how long."""
        with self._lock:
            if self._error is None:
                return
            self._error, for_s = None, round(time.monotonic() - self._since_s, 1)
        get_logger().info(what, after_s=for_s, **details)
