"""The parameters of a PostgreSQL URL, checked where it is read: libpq would say most of it at each connect."""

from __future__ import annotations

import re
from ipaddress import ip_address
from typing import Final
from urllib.parse import unquote

from psycopg.conninfo import make_conninfo
from psycopg.pq import Conninfo, PGconn

from caselog.events.transport.urls import BadUrl, ServiceUrl, check_doubled

# What libpq takes, or would take without a word and then do something else than was meant.
_WORDS: Final = {
    "target_session_attrs": ("any", "read-write", "read-only", "primary", "standby", "prefer-standby"),
    "load_balance_hosts": ("disable", "random"),
    "sslmode": ("disable", "allow", "prefer", "require", "verify-ca", "verify-full"),
    "gssencmode": ("disable", "prefer", "require"),
    "channel_binding": ("disable", "prefer", "require"),
    "sslcertmode": ("disable", "allow", "require"),
    "sslnegotiation": ("postgres", "direct"),
    "keepalives": ("0", "1"),
    "sslsni": ("0", "1"),
    "sslcompression": ("0", "1"),
    "gssdelegation": ("0", "1"),
}
_NUMBERS: Final = ("connect_timeout", "keepalives_idle", "keepalives_interval", "keepalives_count", "tcp_user_timeout")
_NUMBER: Final = re.compile(r"[0-9]{1,9}")
_PORT_MAX: Final = 65_535
# What libpq cannot judge without its server or a file, what is no setting but a name, and what never holds on a socket.
_NOT_ASKED: Final = ("host", "hostaddr", "port", "user", "password", "dbname", "service", "passfile", "gssencmode")
# A directory that no machine has: libpq checks the parameters, tries this one, and names it.
_NOWHERE: Final = "/dev/null/caselog"


def check_parameters(url: ServiceUrl) -> None:
    """Raises `BadUrl`, which names a parameter that libpq knows, and nothing else of the URL."""
    known = {option.keyword.decode() for option in Conninfo.get_defaults()}
    if any(name not in known for name, _ in url.parameters):
        raise BadUrl(
            "it has a parameter after its ? that PostgreSQL does not know: see the names in libpq's manual",
            is_encoding=True,
        )
    check_doubled(url)
    told = {name: unquote(value) for name, value in url.parameters}
    for name, value in told.items():
        if name in _WORDS and value not in _WORDS[name]:
            raise BadUrl(f"its parameter {name} is none of {', '.join(_WORDS[name])}")
        if name in _NUMBERS and not _NUMBER.fullmatch(value):
            raise BadUrl(f"its parameter {name} is no whole number")
    _check_places(told)
    _ask_libpq({name: value for name, value in told.items() if name not in _NOT_ASKED})


def _check_places(told: dict[str, str]) -> None:
    """Each port and each address; libpq takes an empty port for 5432."""
    ports = told.get("port", "").split(",")
    for number, port in enumerate(ports, 1):
        if port and not (_NUMBER.fullmatch(port) and 0 < int(port) <= _PORT_MAX):
            raise BadUrl(f"its parameter port{_part(number, len(ports))} is no number from 1 to 65535")
    addresses = told.get("hostaddr", "").split(",")
    for number, address in enumerate(addresses, 1):
        if address and not _is_address(address):
            raise BadUrl(
                f"its parameter hostaddr{_part(number, len(addresses))} is no IP address: names belong to host"
            )


def _part(number: int, count: int) -> str:
    return "" if count == 1 else f", part {number} of {count},"


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _ask_libpq(told: dict[str, str]) -> None:
    """Whether this libpq takes these values, each alone and all together. What it says quotes them: it is not told."""
    if not _takes({}) or _takes(told):  # without any: what the environment says is not the URL's fault
        return
    for name, value in told.items():
        if not _takes({name: value}):
            raise BadUrl(f"its parameter {name} has a value that libpq does not take")
    raise BadUrl(f"its parameters {', '.join(sorted(told))} do not go together: see libpq's manual")


def _takes(told: dict[str, str]) -> bool:
    tried = PGconn.connect_start(make_conninfo("", **{**told, "host": _NOWHERE}).encode())
    said = tried.error_message
    tried.finish()
    return _NOWHERE.encode() in said
