"""The ops pages' templates, and how a request is answered with one: for people a page, for programs JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
from litestar import MediaType, Response
from litestar.datastructures import Cookie
from litestar.response import Redirect
from sqlalchemy.exc import SQLAlchemyError

from workers import ops_wording, sparkline
from workers.access import AnyRequest, Refusal
from workers.logs import get_logger
from workers.rendering import make_environment, root_of
from workers.session import Sessions
from workers.settings import Settings

AWAY: Final = "The database does not answer, so nothing is known of it: try again, or see the check database."

Page: TypeAlias = Response[Any] | Redirect


class OpsRenderer:
    """Renders the ops pages of one installation."""

    def __init__(self, settings: Settings, sessions: Sessions) -> None:
        self.sessions = sessions
        self._has_tokens = bool(settings.tokens)
        self._zone = settings.zone
        self._templates = make_environment()
        self._templates.filters |= {
            "duration": ops_wording.duration,
            "amount": ops_wording.amount,
            "moment": partial(ops_wording.moment, zone=settings.zone),
            "short": ops_wording.short,
            "detail": ops_wording.detail,
            "sparkline": sparkline.draw,
        }

    def page(
        self, request: AnyRequest, template: str, status: HTTPStatus = HTTPStatus.OK, **context: Any
    ) -> Response[str]:
        """The template with this context, and who is signed in."""
        user = self.sessions.find(request)
        text = self._templates.get_template(template).render(
            root=root_of(request.scope),
            user=user.name if user is not None else None,
            has_tokens=self._has_tokens,
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
            get_logger().warning("a page could not ask the database", path=request.url.path, error=type(error).__name__)
            refusal = Refusal(HTTPStatus.SERVICE_UNAVAILABLE, AWAY)
        if is_program(request):
            raise refusal
        page = self.page(request, "ops_refused.html", HTTPStatus(refusal.status_code), said=refusal.detail)
        page.headers.update(refusal.headers or {})
        return page


def is_program(request: AnyRequest) -> bool:
    """It does not ask for a page: then its answer is JSON."""
    return "text/html" not in request.headers.get("accept", "")


def done(request: AnyRequest, said: dict[str, Any], cookie: Cookie | None = None) -> Page:
    """What was done: a program is told, a person sees the ops page again."""
    cookies = [] if cookie is None else [cookie]
    if is_program(request):
        return Response(msgspec.json.encode(said), media_type=MediaType.JSON, cookies=cookies)
    return Redirect(f"{root_of(request.scope) or './'}?fresh", status_code=303, cookies=cookies)
