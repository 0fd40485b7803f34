"""A port for a server that is started next."""

from __future__ import annotations

import secrets
import socket
from typing import Final

# Below what Linux gives to whoever connects (net.ipv4.ip_local_port_range): else any connection could take such a port
# before its server starts. Not by `random`: each test begins with the same seed, in all processes of a run.
_FIRST: Final = 12_000
_LAST: Final = 32_000
_given: Final[set[int]] = set()


def free_port() -> int:
    """One of 127.0.0.1 at which nobody listens, and that this process was not given before."""
    while True:
        port = _FIRST + secrets.randbelow(_LAST - _FIRST)
        if port in _given:
            continue
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        _given.add(port)
        return port
