"""The ops page put together: what it shows, what may be done on it, and the thread that watches for it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import redis
from litestar.handlers import HTTPRouteHandler

from schema.connection import make_engine
from workers.admission import Admission
from workers.health import Health
from workers.mending_desk import MendingDesk
from workers.ops_actions import OpsActions
from workers.ops_pages import OpsPages
from workers.ops_rendering import OpsRenderer
from workers.ops_view import OpsView
from workers.queues import queue_view
from workers.roles import make_recording
from workers.sampling import Sampler
from workers.services import Services
from workers.settings import Settings

# One look, one requeue with its reading, and what people do beside that.
DATABASE_CONNECTIONS: Final = 4


@contextmanager
def ops_page(
    settings: Settings, services: Services, client: redis.Redis, health: Health, admission: Admission
) -> Iterator[list[HTTPRouteHandler]]:
    """The routes of the ops page; within, a thread samples queues and totals. `client` should have socket timeouts."""
    engine = make_engine(
        services.database_url, application="caselog ops", connections=DATABASE_CONNECTIONS, fence=health.fence
    )
    stopping = threading.Event()
    with queue_view(services, client) as queues:
        sampler = Sampler(queues, client)
        thread = threading.Thread(
            target=sampler.run,
            args=(stopping,),
            name="ops samples",
            daemon=True,  # a broker that hangs must not keep the process
        )
        thread.start()
        give_up_s = settings.parked_give_up_s
        desk = MendingDesk(engine, lambda: make_recording(settings, services, fence=health.fence), give_up_s=give_up_s)
        renderer = OpsRenderer(settings)
        try:
            yield [
                *OpsPages(
                    engine, OpsView(engine, client, health, sampler, give_up_s=give_up_s), desk, renderer
                ).handlers(),
                *OpsActions(engine, desk, renderer, admission).handlers(),
            ]
        finally:
            stopping.set()
            thread.join(1)
            desk.close()
            engine.dispose()
