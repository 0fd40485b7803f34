"""A connection of the status worker, whose client has so long to send a whole request."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import MutableMapping
from typing import Any, Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from caselog.workers.access.refusals import Attempts
from caselog.workers.web.request_errors import RequestErrors

# 4 MiB over a line of 600 kbit/s.
REQUEST_WITHIN_S: Final = 60.0


class FewLines(logging.LoggerAdapter[logging.Logger]):
    """uvicorn's log of one connection. What it says is about what a client sent, who must not fill the log."""

    def __init__(self, logger: logging.Logger, sender: str, lines: Attempts, errors: RequestErrors) -> None:
        super().__init__(logger, {})
        self._sender = sender
        self._lines = lines
        self._errors = errors

    @property
    def level(self) -> int:
        return self.logger.level

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return f"{msg} From: {self._sender}", kwargs

    def warning(self, msg: object, *args: object, **more: Any) -> None:
        if not self._lines.wait_s(self._sender):
            self._lines.fail(self._sender)
            super().warning(msg, *args, **more)

    def error(self, msg: object, *args: object, exc_info: Any = None, **_more: Any) -> None:
        """Log what uvicorn or the application raised, as errors of requests are."""
        self._errors.log((str(msg) % args if args else str(msg)).strip(), self._sender, exc_info)


class HttpConnection(H11Protocol):
    """Closed where a request and its body are not there `REQUEST_WITHIN_S` after it began: none stays open for ever.

    How long an answer takes, or its reader, does not matter. Between requests uvicorn's own limit holds. What is no
    HTTP is in the log as seldom as what is refused: `lines` and `errors` are counted by address, for all connections
    together.
    """

    lines: Final = Attempts()
    errors: Final = RequestErrors()
    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        sender = self.client[0] if self.client is not None else "unknown"
        few = FewLines(self.logger, sender, self.lines, self.errors)
        self.logger = few  # type: ignore[assignment]  # it asks for no more
        self._late = self.loop.call_later(REQUEST_WITHIN_S, transport.abort)

    def handle_events(self) -> None:
        """Called when something came, and when the next request may be looked at that came with the last."""
        super().handle_events()
        is_whole = self.conn.their_state not in {h11.IDLE, h11.SEND_BODY}
        if is_whole and self._late is not None:
            self._late.cancel()
            self._late = None
        elif not is_whole and self._late is None:
            self._late = self.loop.call_later(REQUEST_WITHIN_S, self.transport.abort)

    def send_400_response(self, msg: str) -> None:
        """Say that this is no HTTP, where that can still be said: once an answer began, no other one can."""
        if self.cycle is not None:
            self.cycle.disconnected = True  # what is still asked for is answered by this
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            super().send_400_response(msg)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)
