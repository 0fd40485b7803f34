"""Tracebacks without passwords: what nobody expected to go wrong is said with everything that helps, but for those."""

from __future__ import annotations

import sys
import threading
import traceback
from types import TracebackType

from caselog.events.credentials import hide


def hide_in_tracebacks() -> None:
    """From now on, errors that nobody catches are printed without passwords, whichever thread they end."""
    sys.excepthook = _print
    threading.excepthook = lambda ended: _print(
        ended.exc_type, ended.exc_value, ended.exc_traceback, f"Exception in thread {_name(ended.thread)}:\n"
    )
    sys.unraisablehook = lambda ignored: _print(
        ignored.exc_type, ignored.exc_value, ignored.exc_traceback, f"{ignored.err_msg or 'Exception ignored'}:\n"
    )


def written(error: BaseException) -> str:
    """The traceback as text, without passwords."""
    return hide("".join(traceback.format_exception(error)))


def _print(
    kind: type[BaseException], error: BaseException | None, trace: TracebackType | None, before: str = ""
) -> None:
    if issubclass(kind, SystemExit):
        return
    text = hide("".join(traceback.format_exception(kind, error, trace)))
    sys.stderr.write(f"{before}{text}")


def _name(thread: threading.Thread | None) -> str:
    return "unknown" if thread is None else thread.name
