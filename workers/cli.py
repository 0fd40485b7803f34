"""`caselog`: the command line. What a command needs it imports when it runs, so that `--help` stays quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

from caselog.events.credentials import hide
from caselog.events.errors import CaselogError
from caselog.events.phrases import sentence
from caselog.workers.commands import (
    background_exports,
    case,
    continuity,
    export,
    operations,
    publish,
    queues,
    report,
    run,
    verify,
)
from caselog.workers.commands.deadletters import dead, parked
from caselog.workers.process import command_line
from caselog.workers.process.tracebacks import hide_in_tracebacks

app = typer.Typer(
    name="caselog",
    help="The event log of an organisation that handles cases, as a message-queue worker pipeline.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    run,
    publish,
    case,
    export,
    report,
    background_exports,
    queues,
    operations,
    dead,
    parked,
    continuity,
    verify,
):
    module.add_to(app)


# The base of all that typer raises for what was typed; it has no public name.
_UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]


def main() -> NoReturn:
    """Run the command line. Exits 0 only on success; what a user can mend is one line on stderr."""
    # An app of CASELOG_APPS may lie where the command is run. Behind what is installed: a file of that name hides none.
    sys.path.append(str(Path.cwd()))
    hide_in_tracebacks()
    command_line.begin()
    try:
        status = app(standalone_mode=False)
    except CaselogError as error:
        fail(str(error))
    except _UsageError as error:
        _refuse(error)
    except BrokenPipeError:
        # The reader of our output has gone (`caselog export … | head`): not our failure, and nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as error:
        if (what := _unusable(error)) is None:
            raise
        fail(what)
    sys.exit(status or 0)


def fail(message: str, status: int = 1) -> NoReturn:
    """One line on stderr, whatever line breaks a library put into the message; without passwords."""
    sys.stderr.write(f"caselog: {' '.join(hide(message).split())}\n")
    sys.exit(status)


def _refuse(error: Any) -> NoReturn:
    """What was typed makes no sense: one line, and where to read more."""
    what = error.format_message().replace("Value error, ", "").strip()
    if not what:  # `caselog` alone: its help has been shown
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx is not None else "caselog"
    fail(f"{sentence(what)} See: {command} --help", error.exit_code)


def _unusable(error: Exception) -> str | None:
    """The line for a server or file that cannot be used; None for any other error, whose traceback is wanted."""
    import kombu.exceptions
    import redis
    import sqlalchemy.exc

    from caselog.events.transport.refusals import refusal
    from caselog.workers.servers.database_errors import is_other_schema

    # Whatever the class of an error by which a session was left: that of a read-only one is not "operational".
    if isinstance(error, sqlalchemy.exc.DBAPIError) and (
        error.connection_invalidated or isinstance(error, sqlalchemy.exc.OperationalError)
    ):
        return f"PostgreSQL cannot be used: {sentence(error.orig)} Check CASELOG_DATABASE_URL and its server."
    if isinstance(error, sqlalchemy.exc.DBAPIError) and is_other_schema(error):
        said, _, _ = str(error.orig).strip().partition("\n")
        return _schema() or (
            f"the database's tables are not those that are needed: {sentence(said)} See: caselog ping (and for an "
            "outbox: caselog relay --ddl)"
        )
    if isinstance(error, redis.ConnectionError | redis.TimeoutError) and refusal(error) is None:
        return (
            f"Redis cannot be reached: {sentence(error)} Check CASELOG_BROKER_URL, CASELOG_REDIS_URL and their server."
        )
    # A broker that is silent ends a driver's wait with the plain error of a socket.
    if isinstance(error, kombu.exceptions.OperationalError | ConnectionError | TimeoutError):
        return f"the broker cannot be reached: {sentence(error)} Check CASELOG_BROKER_URL and its server."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r} cannot be used: {error.strerror}"
    return refusal(error)


def _schema() -> str | None:
    """Which schema this version needs and what to do, where the database in force has another one."""
    from caselog.schema.sessions.connection import make_engine
    from caselog.workers.servers.database_errors import which_schema
    from caselog.workers.servers.locate import find_database_url
    from caselog.workers.settings import load_settings

    try:
        engine = make_engine(find_database_url(load_settings()), application="caselog command")
    except CaselogError:  # an outbox may lie in another database than caselog's, which is not known here
        return None
    try:
        return which_schema(engine)
    finally:
        engine.dispose()


if __name__ == "__main__":
    main()
