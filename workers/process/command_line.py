"""A command of `caselog`: whether this process is one, for modules that are imported only once something needs them.

And its Ctrl-C, which ends it wherever it is, while a `KeyboardInterrupt` that a rule raises is its event's fault.
"""

from __future__ import annotations

import signal
from types import FrameType
from typing import NoReturn

from caselog.events.errors import Interrupted

is_command = False


class Stopped(KeyboardInterrupt, Interrupted):
    """Somebody pressed Ctrl-C."""


def begin() -> None:
    """Say so; a worker's role says more later (`configure_logs`), and takes its signals itself."""
    global is_command  # noqa: PLW0603 - what a process is, it is once
    is_command = True
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop)


def _stop(_number: int, _frame: FrameType | None) -> NoReturn:
    raise Stopped
