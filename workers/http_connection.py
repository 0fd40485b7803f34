"""A connection of the status worker, whose client has so long to send a whole request."""

from __future__ import annotations

import asyncio
from typing import Final

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

# 4 MiB over a line of 600 kbit/s.
REQUEST_WITHIN_S: Final = 60.0


class HttpConnection(H11Protocol):
    """Closed where a request and its body are not there `REQUEST_WITHIN_S` after it began: none stays open for ever.

    How long an answer takes, or its reader, does not matter. Between requests uvicorn's own limit holds.
    """

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
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

    def connection_lost(self, exc: Exception | None) -> None:
        if self._late is not None:
            self._late.cancel()
        super().connection_lost(exc)
