"""The short form of the chaos rig; the long one is `make chaos SECONDS=600`."""

from __future__ import annotations

import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from brokers.broker_under_test import missing
from rabbitmq import SHARED, find_programs
from rig import run

SECONDS = 25.0
SEED = 7


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_under_faults_of_every_kind_nothing_is_lost_doubled_or_stuck(broker: str) -> None:
    if broker == "rabbitmq":
        _need_rabbitmq()
    directory = Path(tempfile.mkdtemp(prefix="caselog-chaos-", dir="/tmp"))
    report = run(directory, SEED, broker, seconds=SECONDS)
    report.show()
    assert report.broken == [], f"logs in {directory}"
    assert report.faults.total() >= 8  # a slow machine comes to fewer; with hardly any, nothing would be proved
    assert report.numbers["confirmed by the broker"] > 500
    assert left_behind(directory) == []
    shutil.rmtree(directory, ignore_errors=True)


def left_behind(directory: Path) -> list[str]:
    """The processes that say the directory in their command line or in their environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            said = [*process.cmdline(), *process.environ().values()]
            if any(str(directory) in word for word in said):
                found.append(f"{process.pid} {process.name()}")
    return found


def _need_rabbitmq() -> None:
    if find_programs() is not None:
        return
    try:
        socket.create_connection(SHARED, timeout=3).close()
    except OSError:
        missing("there is no rabbitmq-server to start, and RabbitMQ does not answer on 127.0.0.1:5672")
    if shutil.which("rabbitmqctl") is None:
        missing("there is no rabbitmqctl to make a virtual host with")
