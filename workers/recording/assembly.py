"""The road into the log put together from settings and services, for whoever records."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import autodiscover, event_registry
from caselog.schema.sessions.connection import IDLE_IN_BATCH_S, make_engine
from caselog.schema.sessions.fencing import Fence
from caselog.workers.continuity.counting import Counting
from caselog.workers.continuity.memory import Memory
from caselog.workers.process import crash_points
from caselog.workers.recording.batch import Recording
from caselog.workers.rule_watch.guard import Folding
from caselog.workers.rule_watch.shared_memory import Shared
from caselog.workers.rule_watch.watcher import watch
from caselog.workers.servers.locate import Services
from caselog.workers.servers.redis_client import impatient
from caselog.workers.settings import Settings


def make_rules(settings: Settings) -> Rules:
    return Rules(
        zone=settings.zone,
        search_context=settings.search_context,
        future_tolerance=timedelta(seconds=settings.future_tolerance_s),
        opening_hours=settings.opening_hours,
        bank_holidays=settings.bank_holidays,
    )


def make_recording(
    settings: Settings,
    services: Services,
    *,
    progress: Callable[[], object] = lambda: None,
    tell: Callable[[str], object] = lambda _: None,
    fence: Fence | None = None,
) -> Recording:
    """The road into the log, with every app of the settings registered and a watcher. Raises `RegistrationError`.

    `fence` is that of the process's other engines: what one of them meets, or Redis tells, holds for all.
    """
    crash_points.arm(settings.crash_at)
    autodiscover(settings.apps)
    shared = Shared()
    watch(shared, services.database_url, settings.fold_limit_s)
    folding = Folding(limit_s=settings.fold_limit_s, progress=progress, tell=tell, shared=shared)
    memory = Memory(impatient(services.redis_url), fence or Fence())
    memory.learn()
    memory.begin()
    return Recording(
        make_engine(
            services.database_url,
            application="caselog recorder",
            connections=1,
            idle_s=IDLE_IN_BATCH_S,
            by_index=True,
            fence=memory.fence,
        ),
        event_registry,
        make_rules(settings),
        transaction_events=settings.batch_events,
        give_up_parked_s=settings.parked_give_up_s,
        progress=progress,
        folding=folding,
        counting=Counting(memory),
    )
