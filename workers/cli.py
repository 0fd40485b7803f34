"""`caselog`: the command line. What a command needs it imports when it runs, so that `--help` stays quick."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import NoReturn

import typer

from events.errors import CaselogError
from workers.commands import explaining, operating, publishing, reading, running

app = typer.Typer(
    name="caselog",
    help="The event log of an organisation that handles cases, as a message-queue worker pipeline.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (running, publishing, explaining, reading, operating):
    module.add_to(app)


def main() -> NoReturn:
    """Run the command line. Exits 0 only on success; what a user can mend is one line on stderr."""
    # An app of CASELOG_APPS may lie where the command is run, as with other servers' command lines.
    sys.path.insert(0, str(Path.cwd()))
    try:
        app(standalone_mode=True)
    except CaselogError as error:
        fail(str(error))
    except BrokenPipeError:
        # The reader of our output has gone (`caselog export … | head`): not our failure, and nothing more to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (what := _unreachable(error)) is None:
            raise
        fail(what)
    sys.exit(0)


def fail(message: str) -> NoReturn:
    sys.stderr.write(f"caselog: {message}\n")
    sys.exit(1)


def _unreachable(error: Exception) -> str | None:
    """The line for a server that cannot be reached; None for any other error, whose traceback is wanted."""
    import kombu.exceptions
    import redis
    import sqlalchemy.exc

    if isinstance(error, sqlalchemy.exc.OperationalError):
        return f"PostgreSQL cannot be used: {str(error.orig).strip()}. Check CASELOG_DATABASE_URL and its server."
    if isinstance(error, sqlalchemy.exc.ProgrammingError) and getattr(error.orig, "sqlstate", "") == "42P01":
        return "the database has no caselog tables, or older ones. Run: caselog migrate"
    if isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return f"Redis cannot be reached: {error}. Check CASELOG_BROKER_URL, CASELOG_REDIS_URL and their server."
    if isinstance(error, kombu.exceptions.OperationalError | ConnectionError):
        return f"the broker cannot be reached: {error}. Check CASELOG_BROKER_URL and its server."
    return None


if __name__ == "__main__":
    main()
