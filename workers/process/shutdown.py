"""A worker that was told to stop ends in time, whatever it waits for (docs/design.md "Promises")."""

from __future__ import annotations

import os
import threading
from typing import Final

from caselog.workers.process.logs import get_logger

# Most stop in a fraction of a second; what is left to ten seconds is for a machine that is slow.
GIVE_UP_S: Final = 8.0


def exit_in_time(within_s: float = GIVE_UP_S) -> None:
    """Unless the process has ended in so many seconds, end it hard, with status 1. Returns at once.

    For a server that does not answer: a statement that waits for a lock, a Redis that is frozen; and for a rule that
    does not return. It is as safe as a
    kill: what is not committed is rolled back, and what is not acked comes back.

    In a signal handler it comes first: what a handler does next may wait for a lock that the code it interrupted holds.
    """
    timer = threading.Timer(within_s, _exit)
    timer.daemon = True
    timer.start()


def _exit() -> None:
    get_logger().warning(
        "not stopped in time, by a server that does not answer or a rule that takes long; what is not committed is "
        "done again"
    )
    os._exit(1)
