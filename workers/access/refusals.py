"""Refusals over HTTP: how they are said, logged and, where they come too often, slowed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any, Final
from urllib.parse import urlsplit

from litestar import Request
from litestar.exceptions import HTTPException

from caselog.workers.process.logs import get_logger

ATTEMPTS_MAX: Final = 10
ATTEMPTS_WITHIN_S: Final = 60.0
ADDRESSES_MAX: Final = 1024
_IPV6_NETWORK_BITS: Final = 64
_USUAL_PORTS: Final = {"http": 80, "https": 443}

AnyRequest = Request[Any, Any, Any]


class Refusal(HTTPException):
    """A refusal whose `detail` is for the one who asked: what is wrong, and what to do."""

    def __init__(self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status_code=status, detail=detail, headers=headers)


class Attempts:
    """Counts failures by sender: `ATTEMPTS_MAX` a minute, then no more is looked at until the minute is over.

    Thread-safe by the interpreter's lock as it is used: each call is one step or may be lost without harm. Remembers
    `ADDRESSES_MAX` of them, the last ones that failed. A sender is an address, of IPv6 a whole network of 64 bits,
    which one sender has; or a name that a proxy vouches for, which behind its address tells one from another.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many senders it remembers."""
        return len(self._failures)

    def wait_s(self, sender: str) -> int:
        """Seconds until this sender is looked at again; 0: it is now."""
        failures, until = self._failures.get(_network(sender), (0, 0.0))
        left_s = until - self._clock()
        return int(left_s) + 1 if failures >= ATTEMPTS_MAX and left_s > 0 else 0

    def fail(self, sender: str, kind: str = "") -> int:
        """Count a failure; which one of this minute it is. `kind`s are counted each for itself, and slow nobody."""
        counted, now = _network(sender) + kind, self._clock()
        failures, until = self._failures.pop(counted, (0, 0.0))
        failures, until = (failures + 1, until) if until > now else (1, now + ATTEMPTS_WITHIN_S)
        self._failures[counted] = (failures, until)
        while len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)
        return failures


def is_told(times: int) -> bool:
    """Whether this one of so many of the same is in the log: the 1st, 2nd, 4th, 8th … So many never look like one."""
    return times & (times - 1) == 0


def address(request: AnyRequest) -> str:
    """Where a request comes from: of a proxy the proxy's, since anybody may claim to be another one."""
    return request.client.host if request.client is not None else "unknown"


def refused(
    request: AnyRequest,
    status: HTTPStatus,
    why: str,
    *,
    who: str | None = None,
    headers: dict[str, str] | None = None,
    is_logged: bool,
) -> Refusal:
    """The refusal to raise, of a request that was not allowed. It is logged without what the request carried.

    Whether it is logged decides who asks for it: see `Admission`, which lets nobody fill the log.
    """
    if is_logged:
        said = {"who": who} if who is not None else {}
        get_logger().warning(
            "a request was refused",
            why=why,
            method=request.method,
            path=where(request),
            address=address(request),
            **said,
        )
    return Refusal(status, why, headers)


def where(request: AnyRequest) -> str:
    """The address that was asked for as it is declared, without the names in it; "unknown" where there is none."""
    found: str = request.scope.get("path_template") or "unknown"
    return found


def is_from_our_page(request: AnyRequest, known: Collection[str]) -> bool:
    """False where a browser sent this request for a page that is not ours. `known` are our hosts' names.

    By Sec-Fetch-Site; over plain HTTP browsers do not send that, then by Origin. What sends neither is no browser that
    could be led astray, and has no cookie either.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        return site == "same-origin"
    return origin is None or _is_our_origin(origin, request.headers.get("host", ""), known)


def is_asked_for_here(request: AnyRequest) -> bool:
    """False where a browser asks for a part of another site's page: a picture, a script, a frame, a fetch.

    That page cannot read the answer, but what it looks up in somebody's name would be in the audit as his. A link that
    leads here is another matter, unless it is fetched ahead: he sees what was asked for. Over plain HTTP browsers say
    none of this.
    """
    if request.headers.get("sec-fetch-site", "none") in ("same-origin", "none"):
        return True
    if "sec-purpose" in request.headers:
        return False
    return (request.headers.get("sec-fetch-mode"), request.headers.get("sec-fetch-dest")) == ("navigate", "document")


def _is_our_origin(origin: str, host: str, known: Collection[str]) -> bool:
    """A proxy may ask by another name than the browser, which is then one of those that are known.

    Its port is then the one that the proxy asks for, or none: what else listens on this name has another origin.
    """
    try:
        parts = urlsplit(origin)
        name, port = (parts.hostname or "").removesuffix("."), parts.port
        asked_port = urlsplit(f"//{host}").port
    except ValueError:
        return False
    usual = _USUAL_PORTS.get(parts.scheme)
    if usual is None or parts.path or parts.query or parts.fragment:
        return False
    if parts.netloc.lower() == host.lower():
        return True
    return name in known and "@" not in parts.netloc and port in (None, usual, asked_port)


def too_many(wait_s: int) -> Refusal:
    """The refusal of an address that failed too often; it is not logged, so that nobody fills the log."""
    return Refusal(
        HTTPStatus.TOO_MANY_REQUESTS, f"too many attempts: try again in {wait_s} s", {"retry-after": str(wait_s)}
    )


def _network(text: str) -> str:
    try:
        found = ip_address(text)
    except ValueError:
        return text
    if isinstance(found, IPv6Address) and found.ipv4_mapped is None:
        return str(int(found) >> (128 - _IPV6_NETWORK_BITS))
    return str(found)
