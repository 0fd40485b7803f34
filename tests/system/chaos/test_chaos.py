"""The short form of the chaos rig; the long one is `make chaos SECONDS=600`."""

from __future__ import annotations

import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from brokers.broker_under_test import missing
from rig import run
from servers import RABBITMQ

SECONDS = 30.0
SEED = 7


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_under_faults_of_every_kind_nothing_is_lost_doubled_or_stuck(broker: str) -> None:
    if broker == "rabbitmq":
        _need_rabbitmq()
    directory = Path(tempfile.mkdtemp(prefix="caselog-chaos-", dir="/tmp"))
    report = run(directory, SEED, broker, seconds=SECONDS, faults=None, appendfsync="always")
    report.show()
    assert report.broken == [], f"logs in {directory}"
    assert report.faults.total() > 20
    assert report.numbers["confirmed by the broker"] > 500
    shutil.rmtree(directory, ignore_errors=True)


def _need_rabbitmq() -> None:
    try:
        socket.create_connection(RABBITMQ, timeout=3).close()
    except OSError:
        missing("RabbitMQ does not answer on 127.0.0.1:5672; start one")
    if shutil.which("rabbitmqctl") is None:
        missing("there is no rabbitmqctl to make a virtual host with")
