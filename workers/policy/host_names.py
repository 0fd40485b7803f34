"""By which name a request asks: a page that another name led to this machine must not read what it serves.

A browser that a foreign page sends to `evil.example`, which the attacker's DNS lets mean 127.0.0.1, takes the answer
for that page's own (DNS rebinding). Its `Host` says the foreign name all the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from ipaddress import IPv6Address, ip_address
from typing import Final

_PORT_MAX: Final = 65535
_HOST: Final = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{0,5}))?")
_NAME: Final = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?(\.[A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9_])?)*")


def is_loopback(name: str) -> bool:
    """Whether a name or an address, without a port, means this machine alone, whatever any DNS says."""
    if name.lower() == "localhost":
        return True
    try:
        found = ip_address(name)
    except ValueError:
        return False
    return (found.ipv4_mapped or found).is_loopback if isinstance(found, IPv6Address) else found.is_loopback


def check_name(text: str) -> str:
    """A name or an address of `CASELOG_HTTP_HOSTS` as it is compared. Raises `ValueError`."""
    name = _plain(text.removeprefix("[").removesuffix("]"))
    try:
        return str(ip_address(name))
    except ValueError:
        if _NAME.fullmatch(name):
            return name
    raise ValueError(f"{text!r} is no name or address without scheme and port, such as caselog.example")


def asked_name(values: Sequence[bytes]) -> str | None:
    """The name in the `Host` headers of a request; None where there is not one that is well-formed.

    The port does not matter: who comes through a tunnel or a proxy asks for another one.
    """
    if len(values) != 1:
        return None
    found = _HOST.fullmatch(values[0].decode("latin-1"))
    if found is None or int(found["port"] or 0) > _PORT_MAX:
        return None
    name = _plain(found["name"])
    bare = name.removeprefix("[").removesuffix("]")
    try:
        address = ip_address(bare)
    except ValueError:
        return name if _NAME.fullmatch(name) else None
    return str(address) if isinstance(address, IPv6Address) == name.startswith("[") else None


def is_ours(values: Sequence[bytes], known: Collection[str]) -> bool:
    """Whether a request with these `Host` headers asks by a loopback name or by one that is known."""
    name = asked_name(values)
    return name is not None and (is_loopback(name) or name in known)


def _plain(name: str) -> str:
    return name.removesuffix(".").lower()
