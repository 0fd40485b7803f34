"""Errors of requests in the log: of each kind one traceback a minute and sender, and then how many there were."""

from __future__ import annotations

import traceback
from typing import Any

from caselog.workers.access.refusals import Attempts, is_told
from caselog.workers.process.logs import get_logger


class RequestErrors:
    """Logs what nobody expected a request to raise. Whoever knows how to raise it must not fill the log."""

    def __init__(self) -> None:
        self._seen = Attempts()

    def log(self, said: str, sender: str, error: BaseException | None, **more: Any) -> None:
        """Log the first one of a kind in a minute in full, and of those after it the 2nd, 4th, 8th and so on in short.

        So it is never hidden that there were more. A kind is a type and the line that raised it.
        """
        times = self._seen.fail(sender, _kind(said, error))
        if times == 1:
            get_logger().error(said, address=sender, **more, **({} if error is None else {"exc_info": error}))
        elif is_told(times):
            get_logger().error(f"{said}, again", address=sender, **more, error=type(error).__name__, in_a_minute=times)


def _kind(said: str, error: BaseException | None) -> str:
    frames = traceback.extract_tb(error.__traceback__, limit=-1) if error is not None else []
    return f"{said} {type(error).__name__} {[(frame.filename, frame.lineno) for frame in frames]}"
