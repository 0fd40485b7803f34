"""`caselog worker demo`: simulated journeys of cases, for ever."""

from __future__ import annotations

import secrets
import signal
import threading
from datetime import UTC, datetime

from caselog.events.transport.publisher import Publisher
from caselog.workers.process.logs import configure_logs
from caselog.workers.producers.simulation import live
from caselog.workers.servers.locate import Services


def run_demo(services: Services) -> None:
    """Publish simulated journeys for ever, at a gentle rate."""
    configure_logs("demo")
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with Publisher(services.broker_url) as publisher:
        for events in live(secrets.token_hex(4), lambda: datetime.now(UTC)):
            publisher.publish_many(events)
            if stopping.wait(1.0):
                return
