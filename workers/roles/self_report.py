"""What every role reports of itself: its metrics, and which PostgreSQL it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine, QueuePool

from caselog.schema.sessions.database_url import takes_the_first
from caselog.schema.sessions.server import when_first_connected
from caselog.workers.process.logs import get_logger
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import impatient
from caselog.workers.telemetry.counters import Tally
from caselog.workers.telemetry.totals import Flusher, Gauges


def tell_session(engine: Engine, services: Services) -> None:
    """A log line about what this process has of PostgreSQL, once it has it. It needs no session of its own."""
    if takes_the_first(services.database_url):
        get_logger().warning(
            "target_session_attrs=any of CASELOG_DATABASE_URL takes the first host that answers: where that is a "
            "standby, nothing is written; leave it out unless each host is a pooler"
        )
    when_first_connected(engine, lambda is_pooled: get_logger().info("connected to PostgreSQL", pooled=is_pooled))


@contextmanager
def flushing(role: str, services: Services, tally: Tally, *engines: Engine) -> Iterator[None]:
    """Within, the tally's increments and the use of the engines' pools are carried to Redis once a second."""
    pools = [engine.pool for engine in engines if isinstance(engine.pool, QueuePool)]

    def gauges() -> Gauges:
        in_use, size = sum(pool.checkedout() for pool in pools), sum(pool.size() for pool in pools)
        return Gauges(role=role, pool_in_use=in_use, pool_size=size)

    flusher = Flusher(impatient(services.redis_url), tally, gauges)
    flusher.start()
    try:
        yield
    finally:
        flusher.stop()
