"""That a database is what its log says: for the end of any test that records events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from zoneinfo import ZoneInfo

from caselog.events.folding.resolve import Rules
from caselog.events.model.registry import EventRegistry, autodiscover, event_registry
from caselog.schema.verification.findings import Difference, Finding, differences
from caselog.workers.tasks import aggregator
from caselog.workers.verification.verify import Verification

RULES = Rules(zone=ZoneInfo("Europe/London"))


@contextmanager
def uncounted(_what: str, _total: int | None) -> Iterator[Callable[[int], None]]:
    """Progress that nobody watches."""
    yield lambda _logs: None


def found(
    database_url: str,
    *,
    rules: Rules = RULES,
    registry: EventRegistry = event_registry,
    apps: tuple[str, ...] = (),
    processes: int | None = None,
) -> list[Finding]:
    """What differs from the log, row by row."""
    with Verification(database_url, rules, registry=registry, apps=apps, processes=processes) as verification:
        return list(verification.whole(uncounted))


def what_differs(
    database_url: str, *, rules: Rules = RULES, registry: EventRegistry = event_registry
) -> list[Difference]:
    """What differs from the log, column by column."""
    rows = found(database_url, rules=rules, registry=registry)
    return [difference for finding in rows for difference in differences(finding)]


def assert_verified(database_url: str, *, rules: Rules = RULES, registry: EventRegistry = event_registry) -> None:
    """Everything in the database is what its log says, under the registry and the rules that it was recorded with."""
    assert what_differs(database_url, rules=rules, registry=registry) == []


def add_up_reports(database_url: str, *, rules: Rules = RULES, registry: EventRegistry = event_registry) -> None:
    """Do what the aggregator does, for tests in which none runs."""
    if registry is event_registry:
        autodiscover()  # with no code registered, no case has facts: whichever test is the first needs the apps
    aggregator.add_up_reports(database_url, registry, rules)
