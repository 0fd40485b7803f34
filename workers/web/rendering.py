"""How a request is answered with a page: for people from a template, for programs JSON."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
from litestar import MediaType, Response
from litestar.datastructures import Cookie
from litestar.exceptions import HTTPException
from litestar.response import Redirect
from sqlalchemy.exc import SQLAlchemyError

from caselog.workers.access.refusals import AnyRequest, Attempts, Refusal, address, is_told, where
from caselog.workers.policy.tokens import TokenRole
from caselog.workers.process.logs import get_logger
from caselog.workers.servers.database_errors import is_other_schema
from caselog.workers.settings import Settings
from caselog.workers.web.templating import about, make_environment, root_of

OTHER: Final = "The database's tables are not those of this version: see the check database for what to do."
AWAY: Final = "The database does not answer, so nothing is known of it: try again, or see the check database."

Page: TypeAlias = Response[Any] | Redirect


class PageRenderer:
    """Renders the pages of one installation; `filters` are what its templates have beside those of all pages."""

    def __init__(self, settings: Settings, filters: Mapping[str, Callable[..., Any]] | None = None) -> None:
        self._can_sign_in = settings.tokens.include(TokenRole.READER)
        self._is_open = settings.is_reading_open
        self._zone = settings.zone
        self._away = Attempts()
        self._templates = make_environment()
        self._templates.filters |= filters or {}

    def page(
        self, request: AnyRequest, template: str, status: HTTPStatus = HTTPStatus.OK, **context: Any
    ) -> Response[str]:
        """The template with this context, and who looks at it."""
        text = self._templates.get_template(template).render(
            **about(request),
            can_sign_in=self._can_sign_in,
            is_open=self._is_open,
            zone=self._zone.key,
            **context,
        )
        return Response(text, status_code=status, media_type=MediaType.HTML)

    def answered(self, request: AnyRequest, work: Callable[[], Page]) -> Page:
        """What the work gives. A refusal, or a database that is away, is a page for people too."""
        try:
            return work()
        except Refusal as error:
            refusal = error
        except SQLAlchemyError as error:
            if is_told(times := self._away.fail(address(request))):
                get_logger().warning(
                    "a page could not ask the database",
                    path=where(request),
                    error=type(error).__name__,
                    in_a_minute=times,
                )
            refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, OTHER if is_other_schema(error) else AWAY)
        if is_program(request):
            raise refusal
        return self.refusal(request, refusal)

    def refusal(self, request: AnyRequest, refusal: Refusal) -> Response[Any]:
        """What is refused, said to a program or to a person; who has not said who he is, may do so there."""
        if is_program(request):
            return refused_json(refusal)
        status = HTTPStatus(refusal.status_code)
        if status is HTTPStatus.UNAUTHORIZED and self._can_sign_in:
            page = self.page(request, "ops_sign_in.html", status, to=_asked_again(request))
        else:
            is_asked = request.method in ("GET", "HEAD")
            page = self.page(request, "ops_refused.html", status, said=refusal.detail, is_asked=is_asked)
        page.headers.update(refusal.headers or {})
        return page


def is_program(request: AnyRequest) -> bool:
    """It does not ask for a page: then its answer is JSON."""
    return "text/html" not in request.headers.get("accept", "")


def refused_json(refusal: HTTPException) -> Response[bytes]:
    """A refusal for programs. What Litestar says of a request may repeat it; what we say is for who asked."""
    detail = refusal.detail if isinstance(refusal, Refusal) else HTTPStatus(refusal.status_code).phrase
    return Response(
        msgspec.json.encode({"status": refusal.status_code, "detail": detail}),
        status_code=refusal.status_code,
        media_type=MediaType.JSON,
        headers=dict(refusal.headers or {}),
    )


def _asked_again(request: AnyRequest) -> str:
    """Where to go once it is known who asks: to what was asked for, where that only shows something."""
    if request.method not in ("GET", "HEAD"):
        return ""
    query = request.scope["query_string"].decode("latin-1")
    return request.scope["raw_path"].decode("latin-1").partition("?")[0] + (f"?{query}" if query else "")


def done(request: AnyRequest, said: dict[str, Any], cookie: Cookie | None = None, *, to: str = "") -> Page:
    """What was done: a program is told, a person sees the ops page again, or the page `to`, which is one of ours.

    Whatever `to` says, it is read as a path below where our pages begin: nobody is led elsewhere by a link.
    """
    cookies = [] if cookie is None else [cookie]
    if is_program(request):
        return Response(msgspec.json.encode(said), media_type=MediaType.JSON, cookies=cookies)
    root = root_of(request.scope) or "./"
    path = "".join(character for character in to if "!" <= character <= "~" and character != "\\").lstrip("/")
    return Redirect(f"{root}{path or '?fresh'}", status_code=303, cookies=cookies)
