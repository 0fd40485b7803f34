"""Sessions of the ops page: a cookie that is signed with the token that was signed in with."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Final
from urllib.parse import urlsplit

from litestar.datastructures import Cookie

from workers.access import Access, AnyRequest, Attempts, address, refused, too_many
from workers.logs import get_logger
from workers.tokens import Token, TokenRole

COOKIE: Final = "caselog_session"
LIFE_S: Final = 8 * 3600
_SIGNED_FOR: Final = b"caselog session\n"


class Sessions:
    """Who is signed in. Nothing is kept: a cookie says until when, and its signature which token it is of.

    So a session outlives a restart, is good at each status worker, and ends with its token.
    """

    def __init__(self, access: Access, clock: Callable[[], float] = time.time) -> None:
        self._access = access
        self._clock = clock
        self._attempts = Attempts()

    def sign_in(self, request: AnyRequest, secret: str) -> tuple[Token, Cookie]:
        """The token with this secret, and the cookie of its session.

        Raises `Refusal`: 429 where the address failed too often, before the secret is looked at; 403 where the request
        comes from elsewhere, the secret is unknown or is no operator's. Each is logged.
        """
        if wait_s := self._attempts.wait_s(address(request)):
            raise too_many(wait_s)
        check_origin(request)
        token = self._access.tokens.find(secret)
        if token is None:
            self._attempts.fail(address(request))
            raise refused(request, HTTPStatus.FORBIDDEN, "this token is not known")
        if TokenRole.OPERATOR not in token.roles:
            self._attempts.fail(address(request))
            raise refused(request, HTTPStatus.FORBIDDEN, "this token may not act on this page", who=token.name)
        get_logger().info("signed in", who=token.name, address=address(request))
        until = int(self._clock()) + LIFE_S
        return token, _cookie(request, f"{until}.{_signature(token, until)}", LIFE_S)

    def sign_out(self, request: AnyRequest) -> Cookie:
        """The cookie that ends the session in this browser."""
        check_origin(request)
        return _cookie(request, "", 0)

    def find(self, request: AnyRequest) -> Token | None:
        """Whose session this request is of; None where nobody is signed in."""
        until, _, signature = request.cookies.get(COOKIE, "").partition(".")
        if not (until.isascii() and until.isdigit() and len(until) <= len(str(2**63))):
            return None
        found = None
        for token in self._access.tokens:  # all of them, always
            is_right = hmac.compare_digest(_signature(token, int(until)).encode(), signature.encode())
            if is_right and TokenRole.OPERATOR in token.roles:
                found = token
        return found if int(until) > self._clock() else None

    def require(self, request: AnyRequest) -> Token:
        """Whoever may do what this request asks, by a session or a bearer token. Raises `Refusal`, and logs it.

        A request with a session must come from our own pages: the cookie goes with it by itself.
        """
        if "authorization" in request.headers:
            return self._access.require(request, TokenRole.OPERATOR)
        token = self.find(request)
        if token is None:
            raise refused(request, HTTPStatus.UNAUTHORIZED, "nobody is signed in: sign in, and try again")
        check_origin(request)
        return token


def check_origin(request: AnyRequest) -> None:
    """Raises `Refusal` where a browser sent this request for a page that is not ours.

    By Sec-Fetch-Site; over plain HTTP browsers do not send that, then by Origin. What sends neither is no browser that
    could be led astray, and has no cookie either.
    """
    site = request.headers.get("sec-fetch-site")
    origin = request.headers.get("origin")
    if site is not None:
        is_ours = site == "same-origin"
    else:
        is_ours = origin is None or urlsplit(origin).netloc.lower() == request.headers.get("host", "").lower()
    if not is_ours:
        raise refused(request, HTTPStatus.FORBIDDEN, "this was sent from another site's page")


def _cookie(request: AnyRequest, value: str, life_s: int) -> Cookie:
    # A proxy says so; who says so falsely makes his own cookie stricter.
    is_https = request.url.scheme == "https" or _forwarded(request) == "https"
    return Cookie(COOKIE, value=value, path="/", max_age=life_s, httponly=True, samesite="strict", secure=is_https)


def _forwarded(request: AnyRequest) -> str:
    return request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()


def _signature(token: Token, until: int) -> str:
    return hmac.new(token.digest, _SIGNED_FOR + str(until).encode(), hashlib.sha256).hexdigest()
