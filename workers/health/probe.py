"""A container's health check, `python -m caselog.workers.health.probe recorder`: whether its worker gets work done.

Exit status 0 where every worker of that role and this host name proved work or an empty queue (docs/rules.md §8) in the
last 30 seconds (CASELOG_HEALTH_HEARTBEAT_S), or says that it is paused; 1 otherwise, with one line on stderr. A
person's or the breaker's pause is no reason to start a container again.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

import redis

from caselog.events.errors import CaselogError
from caselog.workers.health.liveness import judge
from caselog.workers.servers.locate import find_services, redis_py_url
from caselog.workers.settings import load_settings
from caselog.workers.telemetry.heartbeat import read_beats

TIMEOUT_S: Final = 5


def main(role: str) -> int:
    """The exit status for that role; prints why it is not 0."""
    try:
        settings = load_settings()
        url = redis_py_url(find_services(settings).redis_url)
        with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as client:
            beats = [beat for beat in read_beats(client) if beat.role == role and beat.host == socket.gethostname()]
    except (CaselogError, redis.RedisError) as error:
        sys.stderr.write(f"caselog: the heartbeat of {role!r} cannot be read: {error}\n")
        return 1
    vitals = judge(role, beats, settings.health_heartbeat_s)
    if beats and all(beat.is_well(settings.health_heartbeat_s) for beat in beats):
        return 0
    sys.stderr.write(f"caselog: the heartbeat of {role!r} on this host: {vitals.value}; see the worker's log\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
