"""Commands that put events in: publish a file, wait until it is recorded, simulate journeys."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

if TYPE_CHECKING:
    from events.publisher import Publisher


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog simulate --cases 100 --seed 1 | caselog publish -")(publish)
    app.command(epilog="Example: caselog publish events.jsonl && caselog wait --timeout 60")(wait)
    app.command(epilog="Example: caselog simulate --cases 1000 --seed 7 > journeys.jsonl")(simulate)
    app.command(epilog="Example: caselog relay --database postgresql://app@db.example/callcentre")(relay)


def publish(file: Annotated[str, typer.Argument(help="JSON lines: an event or a batch a line; - is stdin.")]) -> None:
    """Publish events. A line that is no valid message is named and left out; exit 1 if there was one."""
    from events.errors import CaselogError, PublishError
    from events.publisher import Publisher
    from workers.progress import counting
    from workers.services import find_broker_url
    from workers.settings import load_settings

    broker_url = find_broker_url(load_settings())
    try:
        with _lines(file) as (lines, size_bytes), Publisher(broker_url) as publisher:
            with counting("publishing", size_bytes) as advance:
                published, refused = _publish_lines(lines, publisher, advance)
            publisher.flush()
    except PublishError as error:
        raise CaselogError(
            f"the broker did not confirm {len(error.unsent):,} events ({error.__cause__}). Check CASELOG_BROKER_URL "
            f"and its server, then publish the same lines again: their ids are the same, so nothing doubles"
        ) from error
    sys.stderr.write(f"published {published:,} events" + (f", left out {refused:,}\n" if refused else "\n"))
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

    from events import outbox
    from events.errors import CaselogError, PublishError
    from schema.connection import make_engine
    from workers.logs import configure_logs
    from workers.relay import Relay
    from workers.services import find_broker_url, find_database_url
    from workers.settings import load_settings

    schema, _, name = table.rpartition(".")
    if ddl:
        sys.stdout.write(outbox.ddl(name, schema or None) + "\n")
        return
    configure_logs("relay")
    settings = load_settings()
    engine = make_engine(database or find_database_url(settings), application="caselog relay")
    relay = Relay(engine, outbox.outbox_table(MetaData(), name=name, schema=schema or None), find_broker_url(settings))
    if once:
        try:
            relayed = relay.once()
        except PublishError as error:
            raise CaselogError(
                f"the broker did not confirm the events ({error.__cause__}), and the outbox keeps them. Check "
                f"CASELOG_BROKER_URL and its server"
            ) from error
        sys.stderr.write(f"published {relayed.published:,} events\n")
    if once or status:
        stands = relay.status()
        age = "" if stands.oldest_age_s is None else f", the oldest for {stands.oldest_age_s:,.0f} s"
        sys.stdout.write(f"{stands.waiting:,} wait{age}; {stands.refused:,} are refused\n")
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
    """Return when all that was published before is recorded and aggregated, or set aside."""
    from workers.roles import make_redis
    from workers.services import find_services
    from workers.settings import load_settings
    from workers.waiting import wait_until_recorded

    services = find_services(load_settings())
    waiting = wait_until_recorded(services, make_redis(services), timeout)
    if waiting:
        sys.stderr.write(f"{waiting:,} parked events wait for a case that does not exist yet\n")


def simulate(
    *,
    cases: Annotated[int, typer.Option(min=0, help="How many cases.")] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same events.")] = 1,
) -> None:
    """Write simulated journeys of cases to stdout, as JSON lines in the order of their times."""
    import msgspec

    from workers.simulate import simulate as run

    encoder = msgspec.json.Encoder()
    for event in run(cases, seed):
        sys.stdout.buffer.write(encoder.encode(event) + b"\n")
    sys.stdout.buffer.flush()


def _publish_lines(lines: BinaryIO, publisher: Publisher, advance: Callable[[int], None]) -> tuple[int, int]:
    """Publish what is valid and name what is not; how many events were published, and how many left out."""
    from events.message import Malformed, decode

    published = refused = 0
    for number, line in enumerate(lines, start=1):
        if body := line.strip():
            message = decode(body)
            for position, event in enumerate(message.events):
                if isinstance(event, Malformed):
                    refused += 1
                    sys.stderr.write(f"line {number}: {event.error}\n")
                else:
                    published += 1
                    publisher.publish(message.raw(position))
        advance(len(line))
    return published, refused


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
