"""Processes of a test's own that end with the tests, also where these are killed with -9."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caselog.workers.process.supervisor import die_with_parent


def start_child(argv: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """As `subprocess.Popen`, from the main thread: what another thread started would end with that thread.

    Ctrl-C ends it also where a shell runs the tests in the background, whose jobs ignore it and hand that on.
    """
    die = die_with_parent(signal.SIGKILL)

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if die is not None:
            die()

    return subprocess.Popen(argv, preexec_fn=prepare, **options)  # noqa: PLW1509 - safe here, see die_with_parent
