"""Redis as a broker that loses nothing: a kombu transport, `redis-streams`, with one Redis stream for each queue.

The stream's key is the queue's name, and an entry's field `event` is the message's body, so
`XADD caselog.events * event '<JSON>'` by any client is as good as a message of ours. Exchanges and bindings live in
each connection: who publishes declares them. docs/decisions says why kombu's own Redis transport does not do.
"""

# ruff: noqa: ARG002, FBT001, FBT002 - the signatures are kombu's
from __future__ import annotations

from time import monotonic, sleep
from typing import Any, ClassVar, Final

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.url import maybe_sanitize_url
from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import DataError, ResponseError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from caselog.events.streams.channel import Channel

TRANSPORT: Final = "redis-streams"
# A blocked reader comes back this often, to look after its leases and for signals; a new message wakes it at once.
BLOCK_MS: Final = 200
# Redis looks at the time-outs of blocked readers ten times a second, so a short wait could take 100 ms: it is polled.
SHORT_WAIT_MS: Final = 100
POLL_MS: Final = 1
SOCKET_TIMEOUT_S: Final = 15


class Transport(virtual.Transport):
    """A connection: one pool of Redis connections, its channels, and the exchanges declared on it.

    Transport options: `lease_ms` (see `caselog.events.streams.queue`).
    """

    Channel = Channel
    can_parse_url = True
    driver_type = "redis"
    driver_name = TRANSPORT
    implements = virtual.Transport.implements.extend(heartbeats=True)
    connection_errors: ClassVar = (
        *virtual.Transport.connection_errors,
        OSError,
        RedisConnectionError,
        RedisTimeoutError,
    )
    channel_errors: ClassVar = (*virtual.Transport.channel_errors, ResponseError, DataError)

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self.length_max: dict[str, int | None] = {}
        # No retries inside redis-py: a command that may or may not have run is for kombu's reconnection to judge.
        # RESP2: the replies keep one shape over all versions of redis-py and Redis.
        self.redis = Redis.from_url(
            client.hostname,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=SOCKET_TIMEOUT_S,
            socket_connect_timeout=client.connect_timeout,
        )

    def establish_connection(self) -> Transport:
        self.redis.ping()
        return self

    def close_connection(self, connection: Transport) -> None:
        super().close_connection(connection)
        self.redis.close()

    def _collect(self, connection: Transport | None) -> None:
        """Called by kombu to drop a connection that failed."""
        if connection is not None:
            self.close_connection(connection)

    def heartbeat_check(self, connection: Transport, rate: int = 2) -> None:
        for channel in self.channels:
            channel.extend_lease()

    def drain_events(self, connection: Transport, timeout: float | None = None) -> None:
        """Deliver what there is on any channel; wait `timeout` seconds for it, and raise `socket.timeout` then."""
        deadline = None if timeout is None else monotonic() + timeout
        while True:
            left_ms = BLOCK_MS if deadline is None else max(0.0, min(BLOCK_MS, (deadline - monotonic()) * 1000))
            consuming = [channel for channel in self.channels if channel.is_consuming]
            block_ms = int(left_ms) // len(consuming) if left_ms > SHORT_WAIT_MS else 0
            if sum(channel.deliver(block_ms) for channel in consuming):
                return
            if deadline is not None and monotonic() >= deadline:
                raise TimeoutError("no message arrived in time")
            if not any(channel.has_room for channel in consuming):
                sleep(left_ms / 1000)
            elif not block_ms:
                sleep(min(POLL_MS, left_ms) / 1000)

    def as_uri(self, uri: str, include_password: bool = False, mask: str = "**") -> str:
        return uri if include_password else str(maybe_sanitize_url(uri, mask))


TRANSPORT_ALIASES[TRANSPORT] = f"{__name__}:{Transport.__qualname__}"
