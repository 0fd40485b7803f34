"""A call that is given up after a while, whatever its servers do: for commands that people wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, TypeVar

from caselog.events.errors import CaselogError

Result = TypeVar("Result")
# Longer than drivers take to find out that nobody is there, where they find out at all.
ANSWER_S: Final = 5.0


class NoAnswerInTime(CaselogError):
    """A server neither answered nor refused for so long; the message names it."""


class Asked:
    """Which server is being asked just now, for whoever gives up waiting for it."""

    def __init__(self) -> None:
        self.server = "a server"


def bounded(work: Callable[[], Result], within_s: float, overdue: Callable[[], str]) -> Result:
    """What `work` returns or raises, or `NoAnswerInTime` with the words of `overdue` after `within_s` seconds.

    What was begun goes on in a thread that does not keep the process from ending, so this is for who ends then.
    """
    returned: list[Result] = []
    raised: list[BaseException] = []
    ended = threading.Event()

    def run() -> None:
        try:
            returned.append(work())
        except BaseException as error:  # noqa: BLE001 - raised again where it is waited for
            raised.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name="bounded", daemon=True).start()
    if not ended.wait(within_s):
        raise NoAnswerInTime(overdue())
    if raised:
        raise raised[0]
    return returned[0]
