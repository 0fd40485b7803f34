"""The status worker's pages over HTTP: which version runs, whether it lives, is ready, and all is well."""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import Litestar, MediaType, Request, Response, route
from litestar.exceptions import HTTPException, NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.types import HTTPResponseStartEvent, Message, Scope
from prometheus_client import CONTENT_TYPE_LATEST

from workers.access import Refusal
from workers.deploy import installed_version
from workers.exposition import Exposition
from workers.health import ALL, READY, Check, Health
from workers.logs import get_logger
from workers.openapi import ALIVE, CHECKS, METRICS, READ, VERSIONS, configuration, operation
from workers.rendering import static_files
from workers.settings import Settings

# Nothing here is for frames, other sites or caches, and no script or style stands in a page itself.
HEADERS: Final = {
    "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    # Not no-referrer: a form would then be sent with the origin null, and could not be told from another site's.
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
}


def versions(settings: Settings) -> dict[str, str | None]:
    """What /ping.json says: the settings that were given to the build, and our own version where none was."""
    return {
        "version_number": settings.version_number or installed_version(),
        # An image that was built without them has them empty.
        "build_date": settings.build_date or None,
        "commit_id": settings.commit_id or None,
        "build_tag": settings.build_tag or None,
    }


def checks_json(checks: dict[str, Check]) -> bytes:
    """`{"*": {"status": true, …}, "database": {"status": true, "value": …}, …}`: each check without its name."""
    return msgspec.json.encode(
        {name: {k: v for k, v in msgspec.to_builtins(check).items() if k != "name"} for name, check in checks.items()}
    )


def make_app(
    settings: Settings, health: Health, exposition: Exposition, *, more: Sequence[HTTPRouteHandler] = ()
) -> Litestar:
    """The web application. What looks at servers runs in threads: a slow database keeps no other page waiting.

    `more` are routes beside those that only say how the installation is.
    """
    files = static_files()

    @route("/static/{name:str}", http_method=READ, sync_to_thread=False, include_in_schema=False)
    def static(name: FromPath[str]) -> Response[bytes]:
        if name not in files:
            raise NotFoundException
        content, media_type = files[name]
        return Response(content, media_type=media_type)

    @route(
        "/ping.json", http_method=READ, sync_to_thread=False, operation_class=operation({200: VERSIONS, 501: VERSIONS})
    )
    def ping_json() -> Response[bytes]:
        found = versions(settings)
        is_known = bool(found["build_date"] and found["commit_id"])
        return _json(msgspec.json.encode(found), HTTPStatus.OK if is_known else HTTPStatus.NOT_IMPLEMENTED)

    @route("/livez", http_method=READ, sync_to_thread=False, operation_class=operation({200: ALIVE}))
    def livez() -> Response[bytes]:
        return _json(b'{"status":true}', HTTPStatus.OK)

    @route("/readyz", http_method=READ, sync_to_thread=True, operation_class=operation({200: CHECKS, 503: CHECKS}))
    def readyz() -> Response[bytes]:
        return _checked(health.check(READY))

    @route(
        "/healthcheck.json",
        http_method=READ,
        sync_to_thread=True,
        operation_class=operation({200: CHECKS, 503: CHECKS}),
    )
    def healthcheck_json() -> Response[bytes]:
        return _checked(health.check())

    @route("/metrics", http_method=READ, sync_to_thread=True, operation_class=operation({200: METRICS}))
    def metrics() -> Response[bytes]:
        return Response(exposition.render(), media_type=CONTENT_TYPE_LATEST)

    return Litestar(
        [static, ping_json, livez, readyz, healthcheck_json, metrics, *more],
        before_send=[_add_headers],
        exception_handlers={HTTPException: _refused, Exception: _failed},
        openapi_config=configuration(versions(settings)["version_number"] or "unknown"),
        logging_config=None,
    )


def _checked(checks: dict[str, Check]) -> Response[bytes]:
    return _json(checks_json(checks), HTTPStatus.OK if checks[ALL].status else HTTPStatus.SERVICE_UNAVAILABLE)


def _json(body: bytes, status: HTTPStatus) -> Response[bytes]:
    return Response(body, status_code=status, media_type=MediaType.JSON)


def _refused(_request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    # What Litestar says of a request may repeat it; what we say is for who asked.
    detail = error.detail if isinstance(error, Refusal) else HTTPStatus(error.status_code).phrase
    body = {"status": error.status_code, "detail": detail}
    return Response(
        msgspec.json.encode(body),
        status_code=error.status_code,
        media_type=MediaType.JSON,
        headers=dict(error.headers or {}),
    )


def _failed(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    get_logger().error("a page failed", path=request.url.path, exc_info=error)
    return _json(b'{"status":500,"detail":"Internal Server Error"}', HTTPStatus.INTERNAL_SERVER_ERROR)


async def _add_headers(message: Message, _scope: Scope) -> None:
    if message["type"] == "http.response.start":
        start: HTTPResponseStartEvent = message
        start["headers"] = [*start["headers"], *((k.encode(), v.encode()) for k, v in HEADERS.items())]
