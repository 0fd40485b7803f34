"""The ops page over HTTP: is it well, what waits, what died, who did what. To look needs no token."""

from __future__ import annotations

import asyncio
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import MediaType, Response, route
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from sqlalchemy import Engine

from schema import audit
from schema.connection import limit_statements
from workers import ops_openapi as described
from workers.access import AnyRequest, Refusal
from workers.health import STATEMENT_TIMEOUT_MS
from workers.mending_desk import LETTERS_MAX, MendingDesk
from workers.openapi import READ
from workers.ops_openapi import VERBS
from workers.ops_rendering import OpsRenderer, Page, is_program
from workers.ops_view import OpsView

AUDIT_PAGE: Final = 100


class OpsPages:
    """The pages that only show, the forms of what may be done among them."""

    def __init__(self, engine: Engine, view: OpsView, desk: MendingDesk, renderer: OpsRenderer) -> None:
        self._engine = engine
        self._view = view
        self._desk = desk
        self._renderer = renderer

    def handlers(self) -> list[HTTPRouteHandler]:
        """The routes. What they ask takes its time, so that is done in threads.

        Not by Litestar's `sync_to_thread`: it wraps a function twice whose path has another handler too.
        """
        shown = partial(route, http_method=READ, media_type=MediaType.HTML)

        @shown("/", operation_class=described.SHOWN, summary="The ops page")
        async def home(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._now, request, "ops.html", afresh="fresh" in request.query_params)

        @shown("/now", operation_class=described.SHOWN, summary="What stands on the ops page, as a part of a page")
        async def now(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._now, request, "ops_now.html")

        @shown("/audit", operation_class=described.AUDIT, summary="What was done by hand")
        async def audit_trail(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._renderer.answered, request, lambda: self._audit(request))

        @shown("/sign-in", operation_class=described.SHOWN, summary="The form to sign in")
        async def sign_in_form(request: AnyRequest) -> Page:
            return self._renderer.page(request, "ops_sign_in.html")

        @shown("/pause", operation_class=described.SHOWN, summary="The form to pause recording")
        async def pause_form(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._now, request, "ops_pause.html", verb="pause")

        @shown("/resume", operation_class=described.SHOWN, summary="The form to resume recording")
        async def resume_form(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._now, request, "ops_pause.html", verb="resume")

        @shown("/dead/{verb:str}", operation_class=described.CHOSEN, summary="Which dead letters would be mended")
        async def mend_form(request: AnyRequest, verb: FromPath[str]) -> Page:
            return await asyncio.to_thread(self._renderer.answered, request, lambda: self._mend(request, verb))

        return [home, now, audit_trail, sign_in_form, pause_form, resume_form, mend_form]

    def _now(self, request: AnyRequest, template: str, *, afresh: bool = False, **context: Any) -> Page:
        return self._renderer.page(request, template, ops=self._view.look(afresh=afresh), **context)

    def _audit(self, request: AnyRequest) -> Page:
        until = _moment(request.query_params.get("until"))
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            entries = list(audit.list_audit(db, until=until, limit=AUDIT_PAGE + 1))
        return self._renderer.page(
            request,
            "ops_audit.html",
            entries=entries[:AUDIT_PAGE],
            older=entries[AUDIT_PAGE].at if len(entries) > AUDIT_PAGE else None,
            is_newest=until is None,
        )

    def _mend(self, request: AnyRequest, verb: str) -> Page:
        if verb not in VERBS:
            raise NotFoundException
        chosen = self._desk.choose(as_text(request.query_params.get("fault")))
        if is_program(request):
            return Response(
                msgspec.json.encode({"chosen": len(chosen.letters), "total": chosen.total, "mark": chosen.mark}),
                media_type=MediaType.JSON,
            )
        return self._renderer.page(request, "ops_mend.html", verb=verb, chosen=chosen, most=LETTERS_MAX)


def as_text(value: Any) -> str:
    """A parameter's value without what PostgreSQL refuses."""
    return str(value or "").encode(errors="replace").decode().replace("\x00", "\N{REPLACEMENT CHARACTER}")


def _moment(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"until={text!r} is no moment as RFC 3339 writes it") from None
    if found.tzinfo is None:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"until={text!r} has no offset, such as Z")
    return found
