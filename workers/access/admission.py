"""Who is let in over HTTP, and by which name: the one place that decides it (docs/decisions/0111)."""

from __future__ import annotations

import hashlib
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar.datastructures import Cookie

from caselog.workers.access.callers import NOBODY, Caller, Need, Way, set_caller
from caselog.workers.access.refusals import (
    AnyRequest,
    Attempts,
    Refusal,
    address,
    is_asked_for_here,
    is_from_our_page,
    refused,
    too_many,
    where,
)
from caselog.workers.access.sessions import Sessions
from caselog.workers.policy.host_names import asked_name, is_ours
from caselog.workers.policy.tokens import Token, TokenRole
from caselog.workers.process.logs import get_logger
from caselog.workers.settings import Settings

_SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE: Final = {"www-authenticate": 'Bearer realm="caselog"'}
# Of a closed installation everybody is told the same, of what there is and of what there is not.
_WHO: Final = "a token is needed: Authorization: Bearer …"
_UNKNOWN: Final = "the token is not known"


class Admission:
    """Tells who asks, and whether he may have what he asks for. Keeps nothing but how often whom it refused."""

    def __init__(self, settings: Settings) -> None:
        self.is_open = settings.is_reading_open
        self._tokens = settings.tokens
        self._proxy = settings.proxy
        self._hosts = frozenset(settings.http_hosts)
        self._sessions = Sessions(settings.tokens)
        self._attempts = Attempts()
        # What was presented and is not known. What a proxy or a browser adds by itself, over and over, is one guess.
        self._guesses = Attempts()
        # What is refused is a line in the log, whether it counts as a failure or not: nobody is to fill it.
        self._lines = Attempts()

    def admit(self, request: AnyRequest, need: Need) -> Caller:
        """Whoever asks, where he is admitted; from then on `caller_of` tells it of the request.

        Raises `Refusal`, which is logged: 400 for a target that is no path or a host that is none, 421 for a foreign
        host's name, 401 where it is not said who asks, 403 where he may not, 429 where a wrong token, or that, came too
        often. A right token always passes: a faulty program must not lock out its neighbours behind the same address.
        """
        if not request.scope["raw_path"].startswith(b"/"):
            raise self._refused(request, HTTPStatus.BAD_REQUEST, "the target of a request is a path")
        # Whoever builds an address of it later would raise. HTTP/1.0 need not say it.
        if any(asked := _hosts(request)) and asked_name(asked) is None:
            raise self._refused(request, HTTPStatus.BAD_REQUEST, "the header Host is no name or address with a port")
        caller, fault = self._identified(request)
        self._check_host(request, need, caller)
        if self.is_open:
            caller = msgspec.structs.replace(caller, reads_all=True)
        set_caller(request, caller)  # who is refused is told as whom
        if not caller.may(need):
            raise self._not_admitted(request, need, caller, fault)
        if caller.is_ambient:
            self._check_origin(request, caller)
        secret = _bearer(request)
        if secret and caller.way is not Way.TOKEN:
            # He is let in without it. Whether it is right, the answer may tell all the same.
            if wait_s := self._attempts.wait_s(self._sender(request, caller)):
                raise too_many(wait_s)
            self._count_guess(request, caller, secret, is_added=caller.way is Way.PROXY)
        return caller

    def sign_in(self, request: AnyRequest, secret: str) -> tuple[Token, Cookie]:
        """The token with this secret, and the cookie of its session.

        Raises `Refusal`: 403 where the request comes from elsewhere, the secret is unknown or does not read, and 429
        where that came too often. A right token always passes: behind a proxy everybody may have one address, and
        whoever guesses there must not lock out the others.
        """
        self._check_origin(request, NOBODY)
        token = self._tokens.find(secret)
        if token is None or not token.grant.includes(TokenRole.READER):
            sender = self._sender(request)
            if wait_s := self._attempts.wait_s(sender):
                raise too_many(wait_s)
            self._attempts.fail(sender)
            if token is None:
                raise self._refused(request, HTTPStatus.FORBIDDEN, "this token is not known")
            raise self._refused(request, HTTPStatus.FORBIDDEN, "this token is not for these pages", who=token.name)
        get_logger().info("signed in", who=token.name, address=address(request))
        return token, self._sessions.begin(request, token)

    def sign_out(self, request: AnyRequest) -> Cookie:
        """The cookie that ends the session in this browser. Raises `Refusal` where the request comes from elsewhere."""
        self._check_origin(request, NOBODY)
        return self._sessions.end(request)

    def _identified(self, request: AnyRequest) -> tuple[Caller, str]:
        """Who asks, by a token, else by the proxy's word, else by a session; and what is to be said of nobody.

        A token that is not known ends it, unless a proxy vouches: some hand on what they asked the user for.
        """
        if (token := self._tokens.find(_bearer(request))) is not None:
            return Caller(name=token.name, grant=token.grant, way=Way.TOKEN), ""
        if (vouched := self._vouched(request)) is not None:
            return vouched, ""
        if brought := request.headers.getall("authorization", []):
            return NOBODY, _UNKNOWN if len(brought) == 1 and " " in brought[0] else _WHO
        if (token := self._sessions.find(request)) is not None:
            return Caller(name=token.name, grant=token.grant, way=Way.SESSION), ""
        if cookie := self._sessions.presented(request):
            # Signed with a token that is none any more, or with a guess. It is refused nothing: it comes by itself.
            self._count_guess(request, NOBODY, cookie, is_added=True)
        return NOBODY, _WHO

    def _vouched(self, request: AnyRequest) -> Caller | None:
        if self._proxy is None or not self._proxy.names_somebody(request.scope["headers"]):
            return None
        if not self._proxy.is_peer(address(request)):
            self._tell(request, "a header of the trusted proxy came from elsewhere and does not count")
            return None
        found = self._proxy.vouched(request.scope["headers"])
        if found is None:
            self._tell(
                request,
                "the trusted proxy's headers do not say who asks: one is empty, malformed or there twice, or a "
                "role's provider cannot be read",
            )
            return None
        return Caller(name=found.name, grant=found.grant, way=Way.PROXY)

    def _check_host(self, request: AnyRequest, need: Need, caller: Caller) -> None:
        """Raises `Refusal` for a foreign host's name, where that matters.

        It does where reading is open, and where names are set. And where the proxy's headers count: a page in a browser
        that comes from the same address, led here by a name of the page's own, could write them itself. Through a port
        that a container publishes, whoever is on that machine comes from one address.
        """
        if not (self.is_open or caller.way is Way.PROXY or (self._hosts and need is not Need.NOTHING)):
            return
        if not is_ours(_hosts(request), self._hosts):
            raise self._refused(
                request,
                HTTPStatus.MISDIRECTED_REQUEST,
                "this host's name is not known here: CASELOG_HTTP_HOSTS names those that are",
            )

    def _check_origin(self, request: AnyRequest, caller: Caller) -> None:
        """Raises `Refusal` where a browser sent this for a page that is not ours, unless somebody followed a link."""
        is_safe = request.method in _SAFE_METHODS
        if not (is_asked_for_here(request) if is_safe else is_from_our_page(request, self._hosts)):
            why = "this was sent from another site's page"
            raise self._refused(
                request, HTTPStatus.FORBIDDEN, why, who=caller.name, sender=self._sender(request, caller)
            )

    def _not_admitted(self, request: AnyRequest, need: Need, caller: Caller, fault: str) -> Refusal:
        sender = self._sender(request, caller)
        if caller.name is None and fault == _WHO:
            return self._refused(request, HTTPStatus.UNAUTHORIZED, fault, headers=dict(_CHALLENGE))
        if wait_s := self._attempts.wait_s(sender):
            return too_many(wait_s)
        self._attempts.fail(sender)
        if caller.name is None:
            return self._refused(request, HTTPStatus.UNAUTHORIZED, fault, headers=dict(_CHALLENGE))
        return self._refused(request, HTTPStatus.FORBIDDEN, _forbidden(caller, need), who=caller.name, sender=sender)

    def _refused(
        self, request: AnyRequest, status: HTTPStatus, why: str, *, sender: str | None = None, **more: Any
    ) -> Refusal:
        """The refusal to raise: no request is refused here but by this, so that nobody fills the log."""
        is_logged = self._is_first_of_few(address(request) if sender is None else sender)
        return refused(request, status, why, is_logged=is_logged, **more)

    def _sender(self, request: AnyRequest, caller: Caller | None = None) -> str:
        """Whose failures are counted together: a user's of the proxy, else an address's."""
        caller = self._vouched(request) if caller is None else caller
        if caller is not None and caller.way is Way.PROXY:
            return f"user {caller.name}"
        return address(request)

    def _count_guess(self, request: AnyRequest, caller: Caller, presented: str, *, is_added: bool) -> None:
        """Count what was presented and is not known as a failure, and log that it came.

        What `is_added` to requests by itself, by a proxy or a browser, counts once a minute as long as it is the same.
        """
        sender = self._sender(request, caller)
        if self._attempts.wait_s(sender):
            return
        if self._guesses.fail(sender, hashlib.sha256(presented.encode()).hexdigest()) == 1 or not is_added:
            self._attempts.fail(sender)
            said = {"who": caller.name} if caller.name is not None else {}
            self._tell(request, "a token that is not known was presented", sender, path=where(request), **said)

    def _tell(self, request: AnyRequest, said: str, sender: str | None = None, **more: str) -> None:
        if self._is_first_of_few(address(request) if sender is None else sender):
            get_logger().warning(said, address=address(request), **more)

    def _is_first_of_few(self, sender: str) -> bool:
        if self._lines.wait_s(sender):
            return False
        self._lines.fail(sender)
        return True


def _hosts(request: AnyRequest) -> list[bytes]:
    return [value for name, value in request.scope["headers"] if name == b"host"]


def _bearer(request: AnyRequest) -> str:
    """The bearer token of a request, whether it is known or not; empty where there is none, or there are two."""
    brought = request.headers.getall("authorization", [])
    scheme, _, secret = brought[0].partition(" ") if len(brought) == 1 else ("", "", "")
    return secret.strip() if scheme.lower() == "bearer" else ""


def _forbidden(caller: Caller, need: Need) -> str:
    """The same for each address that needs the same, whether it is there or not.

    Who is bound to a provider is told the same of all that is not his provider's, whatever it needs.
    """
    if caller.may_read and caller.provider is not None:
        return f"what {caller.name!r} may read is one provider's, and this is not"
    needed = "reader" if need.is_reading else need.value
    by = "token" if caller.way in (Way.TOKEN, Way.SESSION) else "user"
    return f"the {by} of {caller.name!r} is no {needed} {by}" if by == "token" else f"{caller.name!r} is no {needed}"
