"""Commands that put events in: publish a file, wait until it is recorded, simulate journeys."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO, Final

import typer

from caselog.events.phrases import count_of

if TYPE_CHECKING:
    from caselog.events.transport.publisher import Publisher
    from caselog.workers.settings import Settings

# Of a broker that was never reached, who waits at a terminal wants to know. After a cut, a Publisher tries for longer.
REACH_FOR_S: Final = 10


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog simulate --cases 100 --seed 1 | caselog publish -")(publish)
    app.command(epilog="Example: caselog publish events.jsonl && caselog wait --timeout 60")(wait)
    app.command(epilog="Example: caselog simulate --cases 1000 --seed 7 > journeys.jsonl")(simulate)
    app.command(epilog="Example: caselog relay --database postgresql://app@db.example/callcentre")(relay)


def publish(file: Annotated[str, typer.Argument(help="JSON lines: an event or a batch a line; - is stdin.")]) -> None:
    """Publish events. One that is not valid is named by its line, with all that is wrong, and left out; then exit 1.

    Whether its type and code are registered, the recorder says: it may be newer than this command.
    """
    from caselog.events.errors import CaselogError, PublishError
    from caselog.events.transport.publisher import Publisher
    from caselog.events.transport.refusals import refusal
    from caselog.workers.servers.locate import find_broker_url
    from caselog.workers.settings import load_settings
    from caselog.workers.terminal.progress import counting

    settings = load_settings()
    _import_apps(settings)
    broker_url = find_broker_url(settings)
    try:
        with _lines(file) as (lines, size_bytes), Publisher(broker_url, reach_for_s=REACH_FOR_S) as publisher:
            with counting("publishing", size_bytes) as advance:
                published, refused = _publish_lines(lines, publisher, advance)
            publisher.flush()
    except PublishError as error:
        said = refusal(error.__cause__ or error) or error.__cause__
        raise CaselogError(
            f"the broker did not confirm {count_of(len(error.unsent), 'event')} ({said}). Check "
            f"CASELOG_BROKER_URL and its server, then publish the same lines again: their ids are the "
            f"same, so nothing doubles"
        ) from error
    sys.stderr.write(f"published {count_of(published, 'event')}" + (f", left out {refused:,}\n" if refused else "\n"))
    if refused:
        raise typer.Exit(1)


def relay(
    *,
    database: Annotated[
        str | None,
        typer.Option(metavar="URL", help="The app's PostgreSQL; the password may stand in ~/.pgpass. Else caselog's."),
    ] = None,
    table: Annotated[str, typer.Option(help="The outbox, as name or schema.name.")] = "caselog_outbox",
    once: Annotated[bool, typer.Option("--once", help="Publish what there is, then end.")] = False,
    status: Annotated[bool, typer.Option("--status", help="Only say what waits and what was refused.")] = False,
    ddl: Annotated[bool, typer.Option("--ddl", help="Only print the statements that make the table.")] = False,
) -> None:
    """Publish an upstream app's outbox until SIGTERM or Ctrl-C. Exit 1 from --once and --status where rows are refused.

    Several may run on one outbox: one works, the others stand by.
    """
    from sqlalchemy import MetaData

    from caselog.events import credentials, outbox
    from caselog.events.errors import CaselogError, PublishError
    from caselog.events.transport.refusals import refusal
    from caselog.events.transport.urls import BadUrl, passwords_of
    from caselog.schema.sessions.connection import make_engine
    from caselog.schema.sessions.database_url import check_database_url
    from caselog.workers.process.logs import configure_logs
    from caselog.workers.producers.relay import Relay
    from caselog.workers.servers.locate import find_broker_url, find_direct_url
    from caselog.workers.settings import load_settings, secrets_of

    schema, _, name = table.rpartition(".")
    if ddl:
        sys.stdout.write(outbox.ddl(name, schema or None) + "\n")
        return
    configure_logs("relay")
    settings = load_settings()
    if database:
        try:
            check_database_url(database)
        except BadUrl as error:
            raise typer.BadParameter(str(error), param_hint="--database") from None
        credentials.keep({*secrets_of(settings), *passwords_of(database)})
    _import_apps(settings)
    engine = make_engine(database or find_direct_url(settings), application="caselog relay")
    relay = Relay(engine, outbox.outbox_table(MetaData(), name=name, schema=schema or None), find_broker_url(settings))
    if once:
        try:
            relayed = relay.once()
        except PublishError as error:
            said = refusal(error.__cause__ or error) or error.__cause__
            raise CaselogError(
                f"the broker did not confirm the events ({said}), and the outbox keeps them. Check "
                f"CASELOG_BROKER_URL and its server"
            ) from error
        sys.stderr.write(f"published {count_of(relayed.published, 'event')}\n")
    if once or status:
        stands = relay.status()
        age = "" if stands.oldest_age_s is None else f", the oldest for {stands.oldest_age_s:,.0f} s"
        waiting, refused = count_of(stands.waiting, "waits", "wait"), count_of(stands.refused, "is", "are")
        sys.stdout.write(f"{waiting}{age}; {refused} refused\n")
        sys.stdout.writelines(f"refused row {row}: {fault}\n" for row, fault in stands.messages)
        if stands.refused:
            raise typer.Exit(1)
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, relay.stop)
    relay.run()


def wait(
    *,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="Give up after this many seconds.")] = 60,
) -> None:
    """Return when all that was published before is recorded and aggregated, or set aside.

    A server that does not answer at all is named after five seconds, or after the time-out where that is shorter.
    """
    from caselog.workers.producers.wait import wait_until_recorded
    from caselog.workers.servers.locate import find_services
    from caselog.workers.servers.redis_client import impatient
    from caselog.workers.settings import load_settings

    services = find_services(load_settings())
    waiting = wait_until_recorded(services, impatient(services.redis_url), timeout)
    if waiting:
        parked = count_of(waiting, "parked event waits", "parked events wait")
        sys.stderr.write(f"{parked} for a case that does not exist yet\n")


def simulate(
    *,
    cases: Annotated[int, typer.Option(min=0, help="How many cases.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same events.")] = 1,
) -> None:
    """Write simulated journeys of cases to stdout, as JSON lines in the order of their times."""
    import msgspec

    from caselog.workers.producers.simulation import simulate as run
    from caselog.workers.rows.output import json_line

    encoder = msgspec.json.Encoder()
    for event in run(cases, seed):
        sys.stdout.buffer.write(json_line(encoder.encode(event)))
    sys.stdout.buffer.flush()


def _publish_lines(lines: BinaryIO, publisher: Publisher, advance: Callable[[int], None]) -> tuple[int, int]:
    """Publish what is valid and name what is not; how many events were published, and how many left out."""
    from caselog.events.errors import MalformedEvent
    from caselog.events.model.message import elements

    published = refused = 0
    for number, line in enumerate(lines, start=1):
        try:
            events = elements(line.strip()) if line.strip() else []
        except MalformedEvent as error:
            events = []
            refused += 1
            sys.stderr.write(f"line {number}: {error}\n")
        for event in events:
            try:
                publisher.publish(event)
            except MalformedEvent as error:
                refused += 1
                sys.stderr.write(f"line {number}: {error}\n")
            else:
                published += 1
        advance(len(line))
    return published, refused


def _import_apps(settings: Settings) -> None:
    """Know which events need a case; where the apps are not to be had, that is left to the recorder."""
    from contextlib import suppress

    from caselog.events.errors import RegistrationError
    from caselog.events.model.registry import autodiscover

    with suppress(RegistrationError):
        autodiscover(settings.apps)


@contextmanager
def _lines(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    """The lines of the file or of stdin, and its size in bytes where it is known."""
    if file == "-":
        yield sys.stdin.buffer, None
        return
    path = Path(file)
    if not path.is_file():
        raise typer.BadParameter(f"there is no file {file!r}; - reads stdin", param_hint="FILE")
    with path.open("rb") as opened:
        yield opened, path.stat().st_size
