"""Whether a worker on this machine gets work done: `python -m workers.beating recorder`, a container's health check.

Exit status 0 where a worker of that role and this host name wrote its heartbeat in the last 30 seconds, 1 otherwise
with one line on stderr. The heartbeat proves work or an empty queue (RULES.md §8), not only a living process.
"""

from __future__ import annotations

import socket
import sys
from typing import Final

import redis

from events.errors import CaselogError
from workers.heartbeat import YOUNG_S, read_beats
from workers.services import find_services, redis_py_url
from workers.settings import load_settings

TIMEOUT_S: Final = 5


def main(role: str) -> int:
    """The exit status for that role; prints why it is not 0."""
    try:
        url = redis_py_url(find_services(load_settings()).redis_url)
        with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, socket_connect_timeout=TIMEOUT_S) as client:
            beats = [beat for beat in read_beats(client) if beat.role == role and beat.host == socket.gethostname()]
    except (CaselogError, redis.RedisError) as error:
        sys.stderr.write(f"caselog: the heartbeat of {role!r} cannot be read: {error}\n")
        return 1
    if beats and beats[0].age_s < YOUNG_S:
        return 0
    said = f"is {beats[0].age_s:.0f} s old" if beats else "is missing"
    sys.stderr.write(f"caselog: the heartbeat of {role!r} on this host {said}; see the worker's log\n")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
