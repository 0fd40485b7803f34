"""Who may act over HTTP: bearer tokens are checked here, and what is refused is logged and slowed."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from ipaddress import IPv6Address, ip_address
from typing import Any, Final

from litestar import Request
from litestar.exceptions import HTTPException

from workers.logs import get_logger
from workers.tokens import Token, TokenRole, Tokens

ATTEMPTS_MAX: Final = 10
ATTEMPTS_WITHIN_S: Final = 60.0
ADDRESSES_MAX: Final = 1024
_IPV6_NETWORK_BITS: Final = 64

AnyRequest = Request[Any, Any, Any]


class Refusal(HTTPException):
    """A refusal whose `detail` is for the one who asked: what is wrong, and what to do."""

    def __init__(self, status: HTTPStatus, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(status_code=status, detail=detail, headers=headers)


class Attempts:
    """Counts failures by address: `ATTEMPTS_MAX` a minute, then no more is looked at until the minute is over.

    Thread-safe by the interpreter's lock as it is used: each call is one step or may be lost without harm. Remembers
    `ADDRESSES_MAX` addresses, the last ones that failed; of IPv6 whole networks of 64 bits, which one sender has.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def __len__(self) -> int:
        """How many addresses it remembers."""
        return len(self._failures)

    def wait_s(self, address: str) -> int:
        """Seconds until this address is looked at again; 0: it is now."""
        failures, until = self._failures.get(_network(address), (0, 0.0))
        left_s = until - self._clock()
        return int(left_s) + 1 if failures >= ATTEMPTS_MAX and left_s > 0 else 0

    def fail(self, address: str) -> None:
        """Count a failure."""
        network, now = _network(address), self._clock()
        failures, until = self._failures.pop(network, (0, 0.0))
        self._failures[network] = (failures + 1, until) if until > now else (1, now + ATTEMPTS_WITHIN_S)
        while len(self._failures) > ADDRESSES_MAX:
            self._failures.popitem(last=False)


class Access:
    """Checks the bearer tokens of requests."""

    def __init__(self, tokens: Tokens) -> None:
        self.tokens = tokens
        self._attempts = Attempts()

    def require(self, request: AnyRequest, role: TokenRole) -> Token:
        """The request's token. Raises `Refusal`: 401 without a right one, 403 where it has not this role.

        Failures are logged, never the token; of one address `ATTEMPTS_MAX` a minute are, and then get 429. A right
        token always passes: a faulty program must not lock out its neighbours behind the same proxy.
        """
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        token = self.tokens.find(secret.strip()) if scheme.lower() == "bearer" else None
        if token is not None and role in token.roles:
            return token
        if wait_s := self._attempts.wait_s(address(request)):
            raise too_many(wait_s)
        self._attempts.fail(address(request))
        if token is not None:
            raise refused(
                request, HTTPStatus.FORBIDDEN, f"the token of {token.name!r} is no {role} token", who=token.name
            )
        why = "the token is not known" if secret else "a token is needed: Authorization: Bearer …"
        raise refused(request, HTTPStatus.UNAUTHORIZED, why, headers={"www-authenticate": 'Bearer realm="caselog"'})


def address(request: AnyRequest) -> str:
    """Where a request comes from: of a proxy the proxy's, since anybody may claim to be another one."""
    return request.client.host if request.client is not None else "unknown"


def refused(
    request: AnyRequest, status: HTTPStatus, why: str, *, who: str | None = None, headers: dict[str, str] | None = None
) -> Refusal:
    """Log a request that was not allowed; the answer to raise."""
    said = {"who": who} if who is not None else {}
    get_logger().warning(
        "a request was refused", why=why, method=request.method, path=request.url.path, address=address(request), **said
    )
    return Refusal(status, why, headers)


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
