"""The containers' health check: a worker on this host that gets work done."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import msgspec
import pytest
from redis import Redis
from support.processes.patience import DEADLINE_S

from caselog.workers.servers.locate import redis_py_url
from caselog.workers.telemetry.heartbeat import KEPT_S, PREFIX, Beat


@pytest.mark.parametrize(
    ("role", "host", "age_s", "status"),
    [
        ("recorder", socket.gethostname(), 5, 0),
        ("recorder", socket.gethostname(), 40, 1),
        ("recorder", "another-container", 5, 1),
        ("tasks", socket.gethostname(), 5, 1),
    ],
)
def test_only_a_young_heartbeat_of_the_same_role_on_the_same_host_counts(
    redis_url: str, *, role: str, host: str, age_s: int, status: int
) -> None:
    with Redis.from_url(redis_py_url(redis_url)) as client:
        beat = Beat(role=role, worker="w", pid=1, host=host)
        client.set(f"{PREFIX}w", msgspec.json.encode(beat), px=(KEPT_S - age_s) * 1000)
    ended = run_check("recorder", redis_url)
    assert (ended.returncode, len(ended.stderr.splitlines())) == (status, status), ended.stderr


def test_a_redis_that_is_away_is_one_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        ended = run_check("tasks", f"redis://127.0.0.1:{taken.getsockname()[1]}/0")
    assert (ended.returncode, len(ended.stderr.splitlines())) == (1, 1), ended.stderr


def run_check(role: str, redis_url: str) -> subprocess.CompletedProcess[str]:
    settings = {"CASELOG_DATABASE_URL": "postgresql://unused/unused", "CASELOG_BROKER_URL": redis_url}
    return subprocess.run(
        [sys.executable, "-m", "caselog.workers.health.probe", role],
        env={name: value for name, value in os.environ.items() if not name.startswith("CASELOG_")} | settings,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
