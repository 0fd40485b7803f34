"""What the checks `broker` and `removals` look at: whether events are taken, and whether something removes them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from amqp.exceptions import AccessRefused
from kombu import Connection

from caselog.events.phrases import count_of
from caselog.events.transport.broker import (
    HELD,
    REMOVED,
    alarm_of,
    connect,
    disconnect,
    is_redis,
    leave_host,
    open_channel,
    outlast_alarm,
    queue_status,
)
from caselog.events.transport.events_queue import MOVING, Standing, exists, standing_of
from caselog.workers.telemetry.removals import POLICY_KEYS

# An alarm holds up the confirmation of what is published; without one it is there at once.
_CONFIRM_WITHIN_S: Final = 1.0
_LOOK_S: Final = 0.05
# No queue has this name: what is sent there is confirmed and gone.
_NOWHERE: Final = "caselog.nowhere"
MOVE: Final = 'caselog move-queue (docs/operations.md, "The queue of events on RabbitMQ")'


class AlarmWatch:
    """Sees RabbitMQ's alarms for memory and disk, as a publisher sees them. For one thread at a time.

    RabbitMQ tells of an alarm only who publishes, and then reads nothing more on that connection: it is kept until the
    alarm is over, because each new one would stay on the server beside it.
    """

    def __init__(self, broker_url: str) -> None:
        self._broker_url = broker_url
        self._held_up: Connection | None = None

    def alarm(self) -> str | None:
        """RabbitMQ's words for the alarm in force; None: it takes what is published. Raises what the driver raises."""
        if self._held_up is not None:
            if not outlast_alarm(self._held_up, _LOOK_S):
                return alarm_of(self._held_up)
            disconnect(self._held_up)
            self._held_up = None
        connection = connect(self._broker_url, heartbeat_s=0)
        try:
            return self._published(connection)
        except (*connection.connection_errors, *connection.channel_errors) as error:
            leave_host(connection, error)
            raise
        finally:
            if connection is not self._held_up:
                disconnect(connection)

    def _published(self, connection: Connection) -> str | None:
        channel = open_channel(connection)
        if is_redis(connection):
            return None
        try:
            # Not empty: RabbitMQ stops reading behind the first frame, and confirms what is whole by then.
            message = channel.prepare_message(b"?", content_type="text/plain")
            channel.basic_publish(message, routing_key=_NOWHERE, confirm_timeout=_CONFIRM_WITHIN_S)
        except AccessRefused:  # this user may publish to caselog's exchanges alone
            return None
        except TimeoutError:
            alarm = alarm_of(connection)
            if alarm is None:
                raise
            self._held_up = connection
            return alarm
        return None


def find_removals(connection: Connection, counts: Mapping[str, int]) -> tuple[bool, str, str | None]:
    """Whether nothing takes events away, what was found, and what to do. `counts`: as `read_removals` gives them.

    Raises what the broker's driver raises, and `BrokerRefusal`.
    """
    if is_redis(connection):
        return True, "Redis has no policies that remove", None
    standing = standing_of(connection)
    waiting = sum(queue_status(connection, queue, with_age=False).ready for queue in (REMOVED, HELD))
    found, hints = [], []
    if counts or waiting:
        by_reason = ", ".join(f"{reason}: {messages}" for reason, messages in sorted(counts.items()))
        if counts:
            found.append(
                f"{count_of(sum(counts.values()), 'message came back and was', 'messages came back and were')} "
                f"recorded in the last hour ({by_reason})"
            )
        if waiting:
            found.append(f"{count_of(waiting, 'message waits', 'messages wait')} in {REMOVED} or {HELD} for a recorder")
        keys = sorted({POLICY_KEYS.get(reason, reason) for reason in counts}) or sorted(POLICY_KEYS.values())
        hints.append(
            f"A policy removes events from the queue: take {' and '.join(keys)} out of it (rabbitmqctl "
            f"list_policies -p {connection.virtual_host}, list_operator_policies), and let no sender set an expiration"
        )
    if standing is Standing.UNSAFE:
        found.append(f"caselog.events was {standing.value}")
        hints.append(f"Move it: {MOVE}")
    elif standing is Standing.UNKNOWN:
        found.append(f"caselog.events: {standing.value}")
    if exists(connection, MOVING):
        found.append(f"{MOVING} is there: a move of the queue was not ended")
        hints.append(f"End it: {MOVE}")
    return not hints, "; ".join(found) or "none", ". ".join(hints) or None
