"""The ops page put together: what it shows, what may be done on it, and the thread that watches for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import redis
from litestar.handlers import HTTPRouteHandler

from caselog.schema.sessions.connection import make_engine
from caselog.workers.access.admission import Admission
from caselog.workers.health.checks import Health
from caselog.workers.health.queues import queue_view
from caselog.workers.health.sampler import Sampler
from caselog.workers.recording.assembly import make_recording
from caselog.workers.servers.locate import Services
from caselog.workers.settings import Settings
from caselog.workers.web.ops import sparkline, wording
from caselog.workers.web.ops.actions import OpsActions
from caselog.workers.web.ops.overview import OpsView
from caselog.workers.web.ops.pages import OpsPages
from caselog.workers.web.ops.selection import Selection
from caselog.workers.web.rendering import PageRenderer

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
        selection = Selection(
            engine, lambda: make_recording(settings, services, fence=health.fence), give_up_s=give_up_s
        )
        renderer = PageRenderer(settings, _filters(settings))
        try:
            yield [
                *OpsPages(
                    engine, OpsView(engine, client, health, sampler, give_up_s=give_up_s), selection, renderer
                ).handlers(),
                *OpsActions(engine, selection, renderer, admission).handlers(),
            ]
        finally:
            stopping.set()
            thread.join(1)
            selection.close()
            engine.dispose()


def _filters(settings: Settings) -> Mapping[str, Callable[..., Any]]:
    """What the ops pages' templates write with."""
    return {
        "duration": wording.duration,
        "amount": wording.amount,
        "moment": partial(wording.moment, zone=settings.zone),
        "short": wording.short,
        "depth": wording.depth,
        "parked_events": wording.parked_events,
        "detail": wording.detail,
        "sparkline": sparkline.draw,
    }
