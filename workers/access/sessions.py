"""Sessions of the pages: a cookie that is signed with the token that was signed in with."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from typing import Final

from litestar.datastructures import Cookie

from caselog.workers.access.refusals import AnyRequest
from caselog.workers.policy.tokens import Token, TokenRole, Tokens

COOKIE: Final = "caselog_session"
LIFE_S: Final = 8 * 3600
_SIGNED_FOR: Final = b"caselog session\n"


class Sessions:
    """Who is signed in. Nothing is kept: a cookie says until when, and its signature which token it is of.

    So a session outlives a restart, is good at each status worker, and ends with its token.
    """

    def __init__(self, tokens: Tokens, clock: Callable[[], float] = time.time) -> None:
        self._tokens = tokens
        self._clock = clock

    def begin(self, request: AnyRequest, token: Token) -> Cookie:
        """The cookie of a session of this token."""
        until = int(self._clock()) + LIFE_S
        return _cookie(request, f"{until}.{_signature(token, until)}", LIFE_S)

    def end(self, request: AnyRequest) -> Cookie:
        """The cookie that ends the session in this browser."""
        return _cookie(request, "", 0)

    def presented(self, request: AnyRequest) -> str:
        """The cookie of a session whose time is not over, whoever signed it; empty where there is none."""
        cookie: str = request.cookies.get(COOKIE, "")
        until = cookie.partition(".")[0]
        is_moment = until.isascii() and until.isdigit() and len(until) <= len(str(2**63))
        return cookie if is_moment and int(until) > self._clock() else ""

    def find(self, request: AnyRequest) -> Token | None:
        """Whose session this request is of; None where nobody is signed in."""
        until, _, signature = self.presented(request).partition(".")
        found = None
        for token in self._tokens if until else ():  # all of them, always
            is_right = hmac.compare_digest(_signature(token, int(until)).encode(), signature.encode())
            if is_right and token.grant.includes(TokenRole.READER):
                found = token
        return found


def _cookie(request: AnyRequest, value: str, life_s: int) -> Cookie:
    # A proxy says so; who says so falsely makes his own cookie stricter.
    is_https = request.scope["scheme"] == "https" or _forwarded(request) == "https"
    return Cookie(COOKIE, value=value, path="/", max_age=life_s, httponly=True, samesite="strict", secure=is_https)


def _forwarded(request: AnyRequest) -> str:
    return request.headers.get("x-forwarded-proto", "").partition(",")[0].strip().lower()


def _signature(token: Token, until: int) -> str:
    return hmac.new(token.digest, _SIGNED_FOR + str(until).encode(), hashlib.sha256).hexdigest()
