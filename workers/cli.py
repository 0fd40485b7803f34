"""`caselog`: the command line. What a command needs it imports when it runs, so that `--help` stays quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import typer

from events.errors import CaselogError
from workers.commands import (
    auditing,
    controlling,
    explaining,
    exports,
    mending,
    operating,
    proving,
    publishing,
    reading,
    reporting,
    running,
)

app = typer.Typer(
    name="caselog",
    help="The event log of an organisation that handles cases, as a message-queue worker pipeline.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (
    running,
    publishing,
    explaining,
    reading,
    reporting,
    exports,
    controlling,
    operating,
    mending,
    auditing,
    proving,
):
    module.add_to(app)


# No such table, column or function: an older schema, or none.
_OLDER: Final = ("42P01", "42703", "42883")
# The base of all that typer raises for what was typed; it has no public name.
_UsageError: Final[type[Exception]] = typer.BadParameter.__mro__[1]


def main() -> NoReturn:
    """Run the command line. Exits 0 only on success; what a user can mend is one line on stderr."""
    # An app of CASELOG_APPS may lie where the command is run, as with other servers' command lines.
    sys.path.insert(0, str(Path.cwd()))
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
    """One line on stderr, whatever line breaks a library put into the message."""
    sys.stderr.write(f"caselog: {' '.join(message.split())}\n")
    sys.exit(status)


def _refuse(error: Any) -> NoReturn:
    """What was typed makes no sense: one line, and where to read more."""
    what = error.format_message().replace("Value error, ", "").rstrip().rstrip(".")
    if not what:  # `caselog` alone: its help has been shown
        sys.exit(error.exit_code)
    command = error.ctx.command_path if error.ctx is not None else "caselog"
    fail(f"{what}. See: {command} --help", error.exit_code)


def _unusable(error: Exception) -> str | None:
    """The line for a server or file that cannot be used; None for any other error, whose traceback is wanted."""
    import kombu.exceptions
    import redis
    import sqlalchemy.exc

    if isinstance(error, sqlalchemy.exc.OperationalError):
        return f"PostgreSQL cannot be used: {_said(error.orig)}. Check CASELOG_DATABASE_URL and its server."
    if isinstance(error, sqlalchemy.exc.ProgrammingError) and getattr(error.orig, "sqlstate", "") in _OLDER:
        return "the database has no caselog tables, or older ones. Run: caselog migrate"
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return f"Redis cannot be reached: {_said(error)}. Check CASELOG_BROKER_URL, CASELOG_REDIS_URL and their server."
    if isinstance(error, kombu.exceptions.OperationalError | ConnectionError):
        return f"the broker cannot be reached: {_said(error)}. Check CASELOG_BROKER_URL and its server."
    if isinstance(error, OSError) and error.filename is not None:
        return f"{str(error.filename)!r} cannot be used: {error.strerror}"
    return None


def _said(error: object) -> str:
    return str(error).strip().rstrip(".?")


if __name__ == "__main__":
    main()
