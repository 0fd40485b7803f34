"""Commands about what a failover, a crash or a restore of the database took: what is missing, and to acknowledge it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caselog.workers.rows.output import print_table, write_json, write_rows

if TYPE_CHECKING:
    from caselog.workers.continuity.losses import Found

continuity = typer.Typer(help="Whether all is there that was recorded, after a failover or a restore of the database.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    app.add_typer(continuity, name="continuity")


@continuity.callback(invoke_without_command=True, epilog="Example: caselog continuity --missing")
def show(
    context: typer.Context,
    *,
    missing: Annotated[
        bool,
        typer.Option(
            "--missing",
            help="List the missing events, as far as Redis names them; dead letters with their bytes' SHA-256.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Compare what Redis remembers of what was stored with what the database has; exit 0 where nothing is missing.

    Stored are the events in the log, those that wait for their case and the dead letters.

    About how many events are missing, stored from when to when, how many are there again, and what to do.
    """
    if context.invoked_subcommand is not None:
        return
    from caselog.workers.commands.database import losses

    with losses() as (_, _, _, found):
        look = found.look(looked_up=None)
        if missing:
            columns = ("source", "event_id", "fingerprint")
            if json:
                write_rows(sys.stdout.buffer, columns, found.missing(), "jsonl")
            else:
                print_table(columns, found.missing())
        elif json:
            write_json(_told(look))
        else:
            sys.stdout.write(f"{_with_state(look)}\n")
    if not look.verdict.is_green:
        if missing:  # an empty list alone would say that none is
            sys.stderr.write(f"{_with_state(look)}\n")
        if look.verdict.hint is not None and not json:
            sys.stderr.write(f"{look.verdict.hint}\n")
        raise typer.Exit(1)


@continuity.command(epilog="Example: caselog continuity acknowledge --why 'the senders have nothing older to send'")
def acknowledge(
    *,
    why: Annotated[str, typer.Option(metavar="TEXT", help="The reason, for the audit; no case data.")],
    json: Json = False,
) -> None:
    """Take the database as it is: what is missing stays missing, another server is right, the unknown is well.

    Written down in the audit. The check continuity turns green; what is lost from here on turns it red again.
    """
    from caselog.events.errors import CaselogError
    from caselog.schema.operations import audit
    from caselog.workers.commands.database import losses
    from caselog.workers.continuity.comparison import State
    from caselog.workers.continuity.memory import acknowledge as settle

    if not why.strip():
        raise typer.BadParameter("give the reason: whoever misses the events will want it", param_hint="--why")
    with losses() as (settings, engine, client, found):
        look = found.look(looked_up=None)
        if look.verdict.is_green:
            raise CaselogError(f"nothing is to be acknowledged of {look.where}: {look.verdict.value}")
        if look.verdict.state is State.STANDBY:
            raise CaselogError(f"{look.verdict.value}: acknowledge on the primary")
        # First the audit: what is acknowledged is never without it. Killed in between, it is acknowledged again.
        with engine.begin() as db:
            audit.record(db, who=settings.who, action="continuity.acknowledge", why=why, detail=_told(look))
        if not settle(client, look.gaps, look.server, None if look.remembered is None else look.remembered.server):
            raise CaselogError("somebody met a newer server meanwhile, and nothing is acknowledged: look again")
    if json:
        write_json(_told(look))
    else:
        sys.stdout.write(f"acknowledged: {_in_words(look)}\n")


def _in_words(look: Found) -> str:
    said = look.verdict.value
    return said if not look.where or look.where in said else f"{said} (the server at {look.where})"


def _with_state(look: Found) -> str:
    said, state = _in_words(look), look.verdict.state
    return said if said.startswith(("unknown", state)) else f"{state}: {said}"


def _told(look: Found) -> dict[str, Any]:
    from datetime import UTC, datetime

    from caselog.workers.rows.output import rfc3339

    def moment(at_ms: int | None) -> str | None:
        return None if at_ms is None else rfc3339(datetime.fromtimestamp(at_ms / 1000, UTC))

    known = look.remembered.server if look.remembered is not None else None
    return {
        "state": look.verdict.state.value,
        "server": look.where,
        "value": look.verdict.value,
        "hint": look.verdict.hint,
        "missing": look.verdict.missing,
        "again": look.loss.again,
        "unnamed": look.loss.unnamed,
        "stored_from": moment(look.loss.first_ms),
        "stored_to": moment(look.loss.last_ms),
        "system": None if look.server is None else str(look.server.system),
        "timeline": None if look.server is None else look.server.timeline,
        "known_system": None if known is None else str(known.system),
        "known_timeline": None if known is None else known.timeline,
    }
