"""The console script `caselog`, and `python -m caselog.workers`: the command line, where what it needs is installed."""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command line, or say in one line what to install: a producer has no more than the Publisher needs."""
    try:
        from caselog.workers import cli  # noqa: PLC0415 - whether it can be imported is the question
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "caselog":
            raise
        sys.stderr.write(
            f"caselog: the command line needs {error.name!r}, which is not installed. Run: pip install "
            "'caselog[workers]'\n"
        )
        sys.exit(1)
    cli.main()


if __name__ == "__main__":
    main()
