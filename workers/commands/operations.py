"""Commands for operations: settings in force, and whether all is well."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from caselog.workers.rows.output import print_table, write_json

if TYPE_CHECKING:
    from caselog.workers.settings import Settings

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def add_to(app: typer.Typer) -> None:
    app.command(epilog="Example: caselog ping --timeout 5 && echo well")(ping)
    app.command(epilog="Example: caselog settings")(settings)


def ping(
    *,
    timeout: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for the answer.")] = 5,
    json: Json = False,
) -> None:
    """Ask the status worker through the broker; exit 0 when all is well."""
    from caselog.workers.health.ping import ping as ask
    from caselog.workers.servers.locate import find_broker_url
    from caselog.workers.settings import load_settings

    answer = ask(find_broker_url(load_settings()), timeout)
    checks = answer["checks"]
    well = bool(checks["*"]["status"])
    if json:
        write_json(answer)
    else:
        columns = ("check", "status", "value", "hint")
        print_table(
            columns,
            (
                [
                    name,
                    "ok" if check["status"] else "FAILED",
                    check.get("value"),
                    "" if check["status"] else check.get("hint"),
                ]
                for name, check in checks.items()
                if name != "*"
            ),
        )
        sys.stdout.write("all is well\n" if well else "not well: see the hints\n")
    if not well:
        raise typer.Exit(1)


def settings(
    *,
    broker_url: Annotated[
        bool, typer.Option("--broker-url", help="Print only where events go: for a Publisher, and nothing secret.")
    ] = False,
    json: Json = False,
) -> None:
    """Show the settings in force, secrets masked, and which of them the environment sets."""
    from caselog.workers.settings import load_settings, shown

    if broker_url:
        _print_broker_url(load_settings())
        return
    rows = shown(load_settings())
    if json:
        write_json([dict(zip(("variable", "value", "set", "description"), row, strict=True)) for row in rows])
    else:
        print_table(("variable", "value", "set", "description"), rows)


def _print_broker_url(settings: Settings) -> None:
    """That of the embedded Redis where none is set. Raises `SettingsError` where it holds a password."""
    from caselog.events.errors import SettingsError
    from caselog.events.transport.urls import passwords_of
    from caselog.workers.servers.locate import find_broker_url

    url = find_broker_url(settings)
    if passwords_of(url):
        raise SettingsError(
            "CASELOG_BROKER_URL holds a password, which is not shown: take the URL from where it is set"
        )
    sys.stdout.write(f"{url}\n")
