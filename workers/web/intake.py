"""`POST /events`: events over HTTP, checked, and published with the broker's confirmation before the answer."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import MediaType, Response, post
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler

from caselog.events.errors import BufferFull, PublisherClosed, PublishError
from caselog.events.transport.publisher import Publisher
from caselog.workers.access.callers import Need
from caselog.workers.access.refusals import AnyRequest
from caselog.workers.process.logs import get_logger
from caselog.workers.web.cloudevents import BODY_BYTES_MAX, FAULTS_SHOWN_MAX, NoEvents, Refuses, read_events
from caselog.workers.web.openapi import BEARER, EVENTS_ANSWERS, EVENTS_BODY, operation

# A broker that is away is said so soon; the sender sends the same again.
RETRY_FOR_S: Final = 2.0
CONFIRMED_WITHIN_S: Final = 10.0
RETRY_AFTER_S: Final = 5
# What waits for a broker at once, of all requests: then they are told to come again.
WAITING_EVENTS_MAX: Final = 10_000
WAITING_BYTES_MAX: Final = 64 * 1024 * 1024


class EventIntake:
    """Takes events from requests to the broker. One Publisher, made at the first request; no page waits for it."""

    def __init__(self, broker_url: str, refuses: Refuses) -> None:
        """`refuses` says why an event would be a dead letter, as far as is known here: it is refused at once."""
        self._broker_url = broker_url
        self._refuses = refuses
        self._lock = threading.Lock()
        self._publisher: Publisher | None = None
        self._is_closed = False
        self._waiting_bytes = 0  # counted on the event loop alone

    def handler(self) -> HTTPRouteHandler:
        """The route."""

        @post(
            "/events",
            request_max_body_size=BODY_BYTES_MAX,
            summary="Publish events",
            operation_class=operation(EVENTS_ANSWERS, body=EVENTS_BODY, security=[BEARER]),
            needs=Need.PUBLISHER,  # told before any of the body is read
        )
        async def post_events(request: AnyRequest) -> Response[bytes]:
            return await self._take(request)

        return post_events

    def close(self) -> None:
        """Send what waits, for `RETRY_FOR_S` at most while the broker is away, and disconnect."""
        with self._lock:
            self._is_closed = True
            publisher, self._publisher = self._publisher, None
        if publisher is not None:
            with suppress(PublishError):  # who sent it was told so
                publisher.close()

    async def _take(self, request: AnyRequest) -> Response[bytes]:
        try:
            accepted = await self._read_and_publish(request)
        except NoEvents as error:
            return _answer(error.status, str(error), error.faults)
        except BufferFull:
            return _later("too much waits for the broker")
        except (PublishError, PublisherClosed) as error:
            get_logger().warning("events were not published", error=str(error))
            return _later("the broker did not confirm the events")
        except TimeoutError:
            get_logger().warning("events were not confirmed", within_s=CONFIRMED_WITHIN_S)
            return _later("the broker has not confirmed the events yet")
        answer = msgspec.json.encode({"accepted": accepted})
        return Response(answer, status_code=HTTPStatus.ACCEPTED, media_type=MediaType.JSON)

    async def _read_and_publish(self, request: AnyRequest) -> int:
        body = await _body(request)
        if self._waiting_bytes + len(body) > WAITING_BYTES_MAX:
            raise BufferFull(f"{self._waiting_bytes:,} bytes wait for the broker")
        self._waiting_bytes += len(body)
        try:
            events = await asyncio.to_thread(read_events, request.headers.multi_items(), body, self._refuses)
            if events:  # CloudEvents allows an empty batch
                await self._publish(events)
        finally:
            self._waiting_bytes -= len(body)
        return len(events)

    async def _publish(self, events: Sequence[bytes]) -> None:
        """Returns when the broker has confirmed all. Raises `PublishError`, `BufferFull`, `TimeoutError`."""
        confirmed = await asyncio.to_thread(self._begin, events)
        try:
            await asyncio.wait_for(asyncio.wrap_future(confirmed), CONFIRMED_WITHIN_S)
        except PublishError:
            await asyncio.to_thread(self._forget_given_up)
            raise

    def _begin(self, events: Sequence[bytes]) -> Any:
        with self._lock:
            if self._is_closed:
                raise PublisherClosed("the status worker stops")
            if self._publisher is None:
                self._publisher = Publisher(
                    self._broker_url,
                    linger_ms=0,
                    buffer_events=WAITING_EVENTS_MAX,
                    block_when_full=False,
                    retry_for_s=RETRY_FOR_S,
                )
            return self._publisher.publish_many(events)

    def _forget_given_up(self) -> None:
        """Who sent it sends it again, so it need not be kept here."""
        with self._lock:
            if self._publisher is not None:
                with suppress(PublishError, TimeoutError):
                    self._publisher.flush(timeout_s=0)


async def _body(request: AnyRequest) -> bytes:
    try:
        return await request.body()
    except HTTPException as error:
        if error.status_code != HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise
        detail = f"the body has more than {BODY_BYTES_MAX:,} bytes: send smaller batches"
        raise NoEvents(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, detail) from None


def _later(why: str) -> Response[bytes]:
    """503. Whether some of them got there is not known: the same ids make it safe to send all again."""
    detail = f"{why}: send the same again, with the same ids"
    return _answer(HTTPStatus.SERVICE_UNAVAILABLE, detail, headers={"retry-after": str(RETRY_AFTER_S)})


def _answer(
    status: HTTPStatus, detail: str, faults: Sequence[Any] = (), headers: dict[str, str] | None = None
) -> Response[bytes]:
    said: dict[str, Any] = {"status": int(status), "detail": detail}
    if faults:
        said["events"] = faults[:FAULTS_SHOWN_MAX]
    return Response(msgspec.json.encode(said), status_code=status, media_type=MediaType.JSON, headers=headers)
