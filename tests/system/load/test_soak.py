"""The short forms of the load rig; the long ones are `make soak` and `make soak ARGS=--overload`."""

from __future__ import annotations

import math
import shutil
import socket
import tempfile
from pathlib import Path

import pytest
from brokers.broker_under_test import missing
from footprint import Allowed, Series, judge, slope_an_hour
from soak import Spans, overload, show, soak
from support.servers.virtual_host import RABBITMQ
from under_load import UnderLoad

HOUR = [5.0 * number for number in range(721)]
ALLOWED = Allowed(more=8, an_hour=8)


def verdict_of(values: list[float]) -> str:
    return judge(Series("worker", "MiB", HOUR, values), ALLOWED, settled=12, window=36).grew


def test_a_process_that_holds_what_it_took_up_first_is_level() -> None:
    """It fills caches in the first minute, breathes, and takes a page more once."""
    breathing = [100 + 20 * min(at / 30, 1) + 3 * math.sin(at / 7) + (4 if at > 2000 else 0) for at in HOUR]
    assert verdict_of(breathing) == ""


def test_a_leak_is_told_by_what_it_adds_up_to() -> None:
    leaking = [100 + at * 9 / 3600 + 3 * math.sin(at / 7) for at in HOUR]
    assert "grows by 9" in verdict_of(leaking) or "more than 8 more" in verdict_of(leaking)
    assert "100.0 → 120.0" in verdict_of([100.0] * 600 + [120.0] * 121)


def test_a_leak_that_began_late_is_told_by_its_slope() -> None:
    late = [100.0 + max(0.0, at - 1800) * 10 / 3600 for at in HOUR]
    assert slope_an_hour(Series("worker", "MiB", HOUR, late), 1800) == pytest.approx(10, rel=0.01)
    assert "grows by 10.0 an hour" in verdict_of(late)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_steady_load_leaves_memory_files_and_threads_as_they_were() -> None:
    """And no event is lost, doubled or other than the rules say."""
    directory = Path(tempfile.mkdtemp(prefix="caselog-load-", dir="/tmp"))
    load = UnderLoad(directory, "redis", rate=100)
    try:
        show(load, soak(load, Spans(seconds=24, look_s=1, settled=8, window=5)), "at the end")
    finally:
        load.close()
    assert load.broken == [], f"logs in {directory}"
    assert load.numbers["published"] > 2000
    shutil.rmtree(directory, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
def test_a_flood_waits_is_seen_and_is_worked_off(broker: str) -> None:
    """More events come than are recorded: the workers stay as large as they were.

    Health is red for as long as the oldest event is too old, and green again after; and then events are recorded as
    quickly as before.
    """
    if broker == "rabbitmq":
        _need_rabbitmq()
    directory = Path(tempfile.mkdtemp(prefix="caselog-load-", dir="/tmp"))
    # Fifty events a transaction make a recorder slow: else it may keep up with the one publisher.
    settings = {"CASELOG_HEALTH_QUEUE_AGE_S": "3", "CASELOG_BATCH_EVENTS": "50"}
    load = UnderLoad(directory, broker, rate=20, recorders=1, settings=settings)
    spans = Spans(seconds=5, look_s=1, settled=3, calm_s=9, apart_s=2)
    try:
        show(load, overload(load, spans, flood_rate=0, red_after_s=3), "most in the flood")
    finally:
        load.close()
    assert load.broken == [], f"logs in {directory}"
    assert load.numbers["queue red, seconds after the flood's beginning"] > 0
    shutil.rmtree(directory, ignore_errors=True)


def _need_rabbitmq() -> None:
    try:
        socket.create_connection(RABBITMQ, timeout=3).close()
    except OSError:
        missing("RabbitMQ does not answer on 127.0.0.1:5672; start one")
    if shutil.which("rabbitmqctl") is None:
        missing("there is no rabbitmqctl to make a virtual host with")
