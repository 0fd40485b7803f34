"""Commands that show the queues, and stop and start the recorders."""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import Annotated

import typer

from caselog.events.phrases import count_of, sentence
from caselog.workers.rows.output import print_table, write_json

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog queues --watch")(queues)
    app.command(epilog="Example: caselog pause --why 'the database moves to another host'")(pause)
    app.command(epilog="Example: caselog resume --why 'the move is done'")(resume)
    app.command(epilog="Example: caselog move-queue --timeout 60")(move_queue)


def queues(
    *,
    watch: Annotated[
        bool, typer.Option("--watch", help="Renew it every second; with --json, a line of JSON a second.")
    ] = False,
    timeout: Annotated[
        float, typer.Option(min=0.1, metavar="SECONDS", help="Give up on a server that is silent for so long.")
    ] = 5,
    json: Json = False,
) -> None:
    """Show each queue: messages ready and unacked, the oldest one's age, messages a second in and out, consumers.

    It looks twice, a second apart, for the rates. What is not known is left empty.
    """
    from caselog.workers.health.queues import lines_within, queue_table, queue_view
    from caselog.workers.servers.locate import find_services
    from caselog.workers.servers.redis_client import impatient
    from caselog.workers.settings import load_settings
    from caselog.workers.terminal.queue_watch import COLUMNS, cells, pause_of, show_samples, write_samples

    if watch and not json and not sys.stdout.isatty():
        raise typer.BadParameter("it needs a terminal: give --json, too, for a line a second", param_hint="--watch")
    services = find_services(load_settings())
    client = impatient(services.redis_url)
    if watch:
        with queue_view(services, client) as view:
            lines_within(view, timeout)  # what cannot be looked at from the start is an error
            with suppress(KeyboardInterrupt):  # how watching ends
                (write_samples if json else show_samples)(view)
        return
    found = queue_table(services, client, timeout)
    if json:
        write_json(found)
        return
    print_table(COLUMNS, [cells(line) for line in found])
    paused = pause_of(found)
    if paused is not None:
        sys.stdout.write(f"{_one_line(paused.in_words())}\nTo go on: caselog resume\n")


def pause(
    *,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for everybody who wonders; no case data.")],
    json: Json = False,
) -> None:
    """Stop consuming on all recorders, within about a second, until caselog resume. Nothing is lost: events wait."""
    from caselog.events.errors import CaselogError
    from caselog.schema.operations import pause as pausing
    from caselog.workers.commands.database import writing

    if not why.strip():
        raise typer.BadParameter("give the reason: whoever finds the recorders paused will want it", param_hint="--why")
    with writing() as (settings, engine), engine.begin() as db:
        paused = pausing.pause(db, who=settings.who, why=_one_line(why))
        if paused is None:
            there = pausing.find_pause(db)
            said = "paused" if there is None else there.in_words()
            raise CaselogError(
                f"the recorders are {sentence(said)} To pause for another reason: caselog resume, then pause"
            )
    if json:
        write_json(paused)
    else:
        sys.stdout.write(f"{_one_line(paused.in_words())}\nTo go on: caselog resume\n")


def resume(
    *,
    why: Annotated[str | None, typer.Option(metavar="TEXT", help="For the audit.")] = None,
    json: Json = False,
) -> None:
    """Start consuming again on all recorders, whoever paused them; they see it within about a second."""
    from caselog.events.errors import CaselogError
    from caselog.schema.operations import pause as pausing
    from caselog.workers.commands.database import writing

    with writing() as (settings, engine), engine.begin() as db:
        lifted = pausing.resume(db, who=settings.who, why=None if why is None else _one_line(why))
    if lifted is None:
        raise CaselogError("the recorders are not paused. Where nothing is consumed, see: caselog ping")
    if json:
        write_json(lifted)
    else:
        sys.stdout.write(f"resumed; it was {_one_line(lifted.in_words())}\n")


def move_queue(
    *,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for recorders to pause.")
    ] = 15,
    json: Json = False,
) -> None:
    """Make RabbitMQ's queue of events anew where the checks broker or removals ask for it; publishers go on meanwhile.

    Pause the recorders before, and upgrade all publishers: an earlier version's would make it again as it was. What
    waits is carried over. Killed half-way it loses nothing: run it again.
    """
    from caselog.workers.producers.move_queue import move_queue as move
    from caselog.workers.servers.locate import find_broker_url
    from caselog.workers.settings import load_settings

    moved = move(find_broker_url(load_settings()), timeout)
    if json:
        write_json(moved)
    elif moved.messages is None:
        sys.stdout.write("caselog.events is as it should be: nothing was moved\n")
    else:
        sys.stdout.write(
            "caselog.events is made anew, and "
            f"{count_of(moved.messages, 'message that waited is', 'messages that waited are')} in it\n"
        )


def _one_line(text: str) -> str:
    """It is shown in lines of logs and tables."""
    return " ".join("".join(char if char.isprintable() else " " for char in text).split())
