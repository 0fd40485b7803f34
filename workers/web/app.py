"""The status worker's pages over HTTP: which version runs, whether it lives, is ready, and all is well."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Litestar, MediaType, Request, Response, route
from litestar.exceptions import HTTPException
from litestar.handlers import HTTPRouteHandler
from litestar.types import HTTPResponseStartEvent, Message, Scope
from prometheus_client import CONTENT_TYPE_LATEST

from caselog.workers.access.admission import Admission
from caselog.workers.access.callers import Caller, Need, caller_of
from caselog.workers.access.reads import ReadLog
from caselog.workers.access.refusals import address, where
from caselog.workers.health.checks import ALL, READY, Check, Health
from caselog.workers.process.build_info import installed_version
from caselog.workers.settings import Settings
from caselog.workers.web.door import Door
from caselog.workers.web.openapi import ALIVE, CHECKS, METRICS, READ, VERSIONS, configuration, operation
from caselog.workers.web.prometheus import Exposition
from caselog.workers.web.rendering import PageRenderer, refused_json
from caselog.workers.web.request_errors import RequestErrors
from caselog.workers.web.templating import static_files

# Nothing here is for frames, other sites or caches, and no script or style stands in a page itself.
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # Not no-referrer: a form would then be sent with the origin null, and could not be told from another site's.
    "referrer-policy": "same-origin",
    # Nor as a picture, a script or a style of another site's page, whose reader is known to a proxy here.
    "cross-origin-resource-policy": "same-origin",
    "x-content-type-options": "nosniff",
}

# What the page to sign in loads: the same in every installation, and nothing of this one.
OPEN_FILES: Final = ("caselog.css", "ops.css", "caselog.svg")

# Litestar says the charset of every text itself.
METRICS_TYPE: Final = CONTENT_TYPE_LATEST.removesuffix("; charset=utf-8")


def versions(settings: Settings) -> dict[str, str | None]:
    """What /ping.json says: the settings that were given to the build, and our own version where none was."""
    return {
        "version_number": settings.version_number or installed_version(),
        # An image that was built without them has them empty.
        "build_date": settings.build_date or None,
        "commit_id": settings.commit_id or None,
        "build_tag": settings.build_tag or None,
    }


def checks_json(checks: dict[str, Check], *, values: bool = True) -> bytes:
    """`{"*": {"status": true, …}, "database": {"status": true, "value": …}, …}`: each check without its name.

    Not `values`: its status alone.
    """
    if not values:
        return msgspec.json.encode({name: {"status": check.status} for name, check in checks.items()})
    return msgspec.json.encode(
        {name: {k: v for k, v in msgspec.to_builtins(check).items() if k != "name"} for name, check in checks.items()}
    )


def make_app(
    settings: Settings,
    health: Health,
    exposition: Exposition,
    *,
    more: Sequence[HTTPRouteHandler] = (),
    admission: Admission | None = None,
    reads: ReadLog | None = None,
) -> Litestar:
    """The web application. What looks at servers runs in threads: a slow database keeps no other page waiting.

    `more` are routes beside those that only say how the installation is. Without `reads`, nobody with a name reads of
    cases where reading takes a token. Raises `Undeclared` for a route that does not say what it needs.
    """
    admission = Admission(settings) if admission is None else admission
    errors = RequestErrors()

    def failed(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
        errors.log("a page failed", address(request), error, path=where(request))
        return _json(b'{"status":500,"detail":"Internal Server Error"}', HTTPStatus.INTERNAL_SERVER_ERROR)

    @route(
        "/ping.json",
        http_method=READ,
        sync_to_thread=False,
        operation_class=operation({200: VERSIONS, 501: VERSIONS}),
        needs=Need.NOTHING,
    )
    def ping_json() -> Response[bytes]:
        found = versions(settings)
        is_known = bool(found["build_date"] and found["commit_id"])
        return _json(msgspec.json.encode(found), HTTPStatus.OK if is_known else HTTPStatus.NOT_IMPLEMENTED)

    @route(
        "/livez", http_method=READ, sync_to_thread=False, operation_class=operation({200: ALIVE}), needs=Need.NOTHING
    )
    def livez() -> Response[bytes]:
        return _json(b'{"status":true}', HTTPStatus.OK)

    @route(
        "/readyz",
        http_method=READ,
        sync_to_thread=True,
        operation_class=operation({200: CHECKS, 503: CHECKS}),
        needs=Need.NOTHING,
    )
    def readyz(request: Request[Any, Any, Any]) -> Response[bytes]:
        return _checked(health.check(READY), caller_of(request))

    @route(
        "/healthcheck.json",
        http_method=READ,
        sync_to_thread=True,
        operation_class=operation({200: CHECKS, 503: CHECKS}),
        needs=Need.NOTHING,
    )
    def healthcheck_json(request: Request[Any, Any, Any]) -> Response[bytes]:
        return _checked(health.check(), caller_of(request))

    @route(
        "/metrics",
        http_method=READ,
        sync_to_thread=True,
        operation_class=operation({200: METRICS}),
        needs=Need.NOTHING if settings.metrics == "open" else Need.UNBOUND_READER,
    )
    def metrics() -> Response[bytes]:
        return Response(exposition.render(), media_type=METRICS_TYPE)

    return Door(
        [*_static(), ping_json, livez, readyz, healthcheck_json, metrics, *more],
        admission=admission,
        reads=reads,
        refuse=PageRenderer(settings).refusal,
        before_send=[_add_headers],
        on_shutdown=[] if reads is None else [reads.close],
        exception_handlers={HTTPException: _refused, Exception: failed},
        openapi_config=configuration(versions(settings)["version_number"] or "unknown"),
        logging_config=None,
    )


def _static() -> list[HTTPRouteHandler]:
    """A route for each file: what is none of them is then no address of ours, and answered as such."""
    files = static_files()

    def handler(names: list[str], need: Need) -> HTTPRouteHandler:
        paths = [f"/static/{name}" for name in names]

        @route(paths, http_method=READ, sync_to_thread=False, include_in_schema=False, needs=need)
        def static(request: Request[Any, Any, Any]) -> Response[bytes]:
            content, media_type = files[where(request).rpartition("/")[2]]
            return Response(content, media_type=media_type)

        return static

    closed = [name for name in files if name not in OPEN_FILES]
    return [handler(list(OPEN_FILES), Need.NOTHING), handler(closed, Need.READER)]


def _checked(checks: dict[str, Check], caller: Caller) -> Response[bytes]:
    """What a check found may name hosts, tables and errors: it is for who reads all else of the installation."""
    body = checks_json(checks, values=caller.may(Need.UNBOUND_READER))
    return _json(body, HTTPStatus.OK if checks[ALL].status else HTTPStatus.SERVICE_UNAVAILABLE)


def _json(body: bytes, status: HTTPStatus) -> Response[bytes]:
    return Response(body, status_code=status, media_type=MediaType.JSON)


def _refused(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    return refused_json(error)


async def _add_headers(message: Message, _scope: Scope) -> None:
    if message["type"] == "http.response.start":
        start: HTTPResponseStartEvent = message
        start["headers"] = [*start["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
