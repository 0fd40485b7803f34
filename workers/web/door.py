"""The door of the web application: nothing is served but through it, and no route that does not say who may ask.

A route declares what it needs and, where it shows something of cases, what is read:

    @route("/reports/{name:str}", needs=Need.READER, reads="report")

Here it is held to that, before it is asked: who may not is refused without a look at anything, what a named reader is
shown is kept before the first byte, and OpenAPI says what is needed. A route without `needs` does not start.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import redis
from litestar import Litestar, Request, Response
from litestar.enums import ScopeType
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.spec import OpenAPI, OpenAPIMediaType, OpenAPIResponse, Operation
from litestar.routes import HTTPRoute
from litestar.types import HTTPScope, LifeSpanScope, Message, Receive, Scope, Send
from litestar.utils import normalize_path

from caselog.workers.access.admission import Admission
from caselog.workers.access.callers import NEEDS, READS, Caller, Need
from caselog.workers.access.reads import ReadLog, begin_read, read_of
from caselog.workers.access.refusals import AnyRequest, Refusal
from caselog.workers.process.logs import get_logger
from caselog.workers.web.openapi import BEARER, PAGE, REFUSAL, SESSION

# Litestar makes a handler for it of each path, which says which methods there are.
OPTIONS: Final = "OPTIONS"
_AWAY: Final = "who reads is kept in Redis, which does not take it: nothing is shown until it does. Try again"
_REFUSALS: Final = {
    400: "the request is malformed",
    403: "who asks may not",
    421: "the host's name is not known",
    429: "who asks failed too often",
}

Refuse = Callable[[AnyRequest, Refusal], Response[Any]]
"""How a refusal is answered: by a page for people, by JSON for programs."""


class Undeclared(LookupError):
    """A route does not say who may ask it."""


class Door(Litestar):
    """The web application, whoever serves it or tests it. Takes what `Litestar` takes."""

    def __init__(self, *routes: Any, admission: Admission, reads: ReadLog | None, refuse: Refuse, **more: Any) -> None:
        """`reads` may be None where nobody has a name. Raises `Undeclared`, naming the route."""
        super().__init__(*routes, **more)
        self._admission = admission
        self._reads = reads
        self._refuse = refuse
        _describe(self)

    def register(self, value: Any) -> None:  # type: ignore[override]  # as Litestar has it
        """Add routes, at the start or later. Raises `Undeclared`, naming one that does not say what it needs."""
        super().register(value)
        for route in self.routes:
            if not isinstance(route, HTTPRoute):
                raise Undeclared(f"{route.path} is no HTTP route: the door knows no other, and lets none in")
            for handler in handlers_of(route):
                if not isinstance(handler.opt.get(NEEDS), Need):
                    raise Undeclared(f"{route.path} does not declare what it needs, such as needs=Need.READER")

    async def __call__(self, scope: Scope | LifeSpanScope, receive: Receive, send: Send) -> None:  # type: ignore[override]  # Litestar has them wider
        if scope["type"] != ScopeType.HTTP:
            await super().__call__(scope, receive, send)
            return
        http = cast("HTTPScope", scope)
        http.setdefault("state", {})
        http["litestar_app"] = self
        request: AnyRequest = Request(http, receive, send)
        handler = self._handler(http)
        # Whoever does not know what there is, is not told: what is not there needs what nearly everything needs.
        is_ours = handler is not None and request.method != OPTIONS
        need = handler.opt.get(NEEDS, Need.NOBODY) if handler is not None and is_ours else Need.UNBOUND_READER
        try:
            caller = self._admission.admit(request, need)
        except Refusal as refusal:
            await self.answer(request, refusal, send)
            return
        what = None if handler is None else handler.opt.get(READS)
        if what is None or caller.name is None or self._admission.is_open:
            await super().__call__(scope, receive, send)
            return
        begin_read(request, what)
        kept = _KeptFirst(self, request, caller, send)
        try:
            await super().__call__(scope, receive, kept.send)
        finally:
            await kept.end()

    def _handler(self, scope: Any) -> HTTPRouteHandler | None:
        """Who will be asked, if anybody. As Litestar's own router finds it, which has not run yet."""
        try:
            _, handler, _, _, template = self.asgi_router.handle_routing(
                path=normalize_path(scope["path"]), method=scope["method"]
            )
        except HTTPException:
            return None
        scope["path_template"] = template
        return handler if isinstance(handler, HTTPRouteHandler) else None

    async def keep(self, request: AnyRequest, caller: Caller) -> Any:
        """Keep what the request reads; the read's id, if it has one of its own. Raises `Refusal` where it cannot be."""
        try:
            if self._reads is not None:
                return await self._reads.keep(caller, read_of(request))
        except redis.RedisError as error:
            get_logger().error("a read could not be kept, so nothing was shown", error=type(error).__name__)
        raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, _AWAY, {"retry-after": "5"})

    async def count(self, read_id: Any, rows: int) -> None:
        """Say how many rows the read had. It is kept; where this is not, the audit does not say how many."""
        try:
            if self._reads is not None:
                await self._reads.count(read_id, rows)
        except redis.RedisError as error:
            get_logger().warning("how many rows a read had could not be kept", error=type(error).__name__)

    async def answer(self, request: AnyRequest, refusal: Refusal, send: Send) -> None:
        """Send what is refused in place of an answer."""
        answer = self._refuse(request, refusal).to_asgi_response(None, request)  # the server leaves out what HEAD does
        await answer(request.scope, request.receive, self._wrap_send(send, request.scope))


class _KeptFirst:
    """Sends an answer once it is kept that it was read; where it cannot be kept, another one in its place."""

    def __init__(self, door: Door, request: AnyRequest, caller: Caller, send: Send) -> None:
        self._door = door
        self._request = request
        self._caller = caller
        self._send = send
        self._read_id: Any = None
        self._is_counted = False
        self._is_refused = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and self._is_read(message["status"]):
            try:
                self._read_id = await self._door.keep(self._request, self._caller)
            except Refusal as refusal:
                self._is_refused = True
                await self._door.answer(self._request, refusal, self._send)
        if not self._is_refused:
            await self._send(message)

    async def end(self) -> None:
        """The answer was sent, or its reader went away: what is known by now of what was kept before."""
        rows = read_of(self._request).rows
        if self._read_id is not None and rows is not None and not self._is_counted:
            await self._door.count(self._read_id, rows)

    def _is_read(self, status: int) -> bool:
        read = read_of(self._request)
        self._is_counted = read.rows is not None
        return read.of_cases and (status < HTTPStatus.MULTIPLE_CHOICES or status == HTTPStatus.NOT_MODIFIED)


def handlers_of(route: Any) -> list[HTTPRouteHandler]:
    """The handlers of a route of ours, each once; not those that Litestar makes of its own accord."""
    if not isinstance(route, HTTPRoute):
        return []
    found = {id(handler): handler for method, handler in _by_method(route) if method != OPTIONS}
    return list(found.values())


def _by_method(route: HTTPRoute) -> list[tuple[str, HTTPRouteHandler]]:
    return [(str(method), handler) for method, (handler, _) in route.route_handler_map.items()]


def _describe(door: Door) -> None:
    """What the door needs and answers, in OpenAPI: so that each operation says it, and none forgets it."""
    described: OpenAPI = door.openapi_schema
    is_open = door._admission.is_open  # noqa: SLF001 - a part of it
    for route in door.routes:
        item = (described.paths or {}).get(getattr(route, "path_format", "") or "/")
        if item is None or not isinstance(route, HTTPRoute):
            continue
        for method, handler in _by_method(route):
            operation: Operation | None = getattr(item, method.lower(), None)
            need = handler.opt.get(NEEDS)
            if operation is None or need is None:
                continue
            more = dict(_REFUSALS)
            if need is not Need.NOTHING and not (is_open and need.is_reading):
                more[401] = "who asks is not known"
                if need.is_reading:
                    operation.security = [{BEARER: []}, {SESSION: []}]
                if handler.opt.get(READS):
                    more[503] = "what is read cannot be kept"
            answers = operation.responses = dict(operation.responses or {})
            for status, said in more.items():
                contents = {name: OpenAPIMediaType(schema=schema) for name, schema in {**PAGE, **REFUSAL}.items()}
                answers.setdefault(str(status), OpenAPIResponse(description=said, content=contents))
