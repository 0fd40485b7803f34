"""What may be done on the ops page by whoever has an operator's token; the audit says whose it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
from litestar import MediaType, Response, post
from litestar.exceptions import NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from sqlalchemy import Engine

from events.errors import CaselogError
from schema import pausing
from schema.connection import limit_statements
from workers import ops_openapi as described
from workers.access import AnyRequest, Refusal
from workers.health import STATEMENT_TIMEOUT_MS
from workers.mending import Report
from workers.mending_desk import Changed, MendingDesk
from workers.ops_openapi import VERBS, WHY_CHARACTERS_MAX
from workers.ops_pages import as_text
from workers.ops_rendering import OpsRenderer, Page, done, is_program

FORM_BYTES_MAX: Final = 16 * 1024

Form: TypeAlias = dict[str, str]


class OpsActions:
    """The routes that change something."""

    def __init__(self, engine: Engine, desk: MendingDesk, renderer: OpsRenderer) -> None:
        self._engine = engine
        self._desk = desk
        self._renderer = renderer
        self._sessions = renderer.sessions

    def handlers(self) -> list[HTTPRouteHandler]:
        """The routes. Forms are read on the event loop; what is done is done in threads."""
        action = partial(post, request_max_body_size=FORM_BYTES_MAX, status_code=HTTPStatus.OK)

        @action("/sign-in", operation_class=described.SIGN_IN, summary="Sign in")
        async def sign_in(request: AnyRequest) -> Page:
            return await self._act(request, self._sign_in)

        @action("/sign-out", operation_class=described.SIGN_OUT, summary="Sign out")
        async def sign_out(request: AnyRequest) -> Page:
            return await self._act(request, self._sign_out)

        @action("/pause", operation_class=described.PAUSE, summary="Pause recording")
        async def pause(request: AnyRequest) -> Page:
            return await self._act(request, self._pause)

        @action("/resume", operation_class=described.RESUME, summary="Resume recording")
        async def resume(request: AnyRequest) -> Page:
            return await self._act(request, self._resume)

        @action(
            "/dead/{verb:str}",
            operation_class=described.MEND,
            summary="Requeue or discard the dead letters that were shown",
        )
        async def mend(request: AnyRequest, verb: FromPath[str]) -> Page:
            if verb not in VERBS:
                raise NotFoundException
            return await self._act(request, self._requeue if verb == "requeue" else self._discard)

        return [sign_in, sign_out, pause, resume, mend]

    async def _act(self, request: AnyRequest, work: Callable[[AnyRequest, Form], Page]) -> Page:
        form = {name: as_text(value) for name, value in (await request.form()).items()}
        return await asyncio.to_thread(self._renderer.answered, request, lambda: work(request, form))

    def _sign_in(self, request: AnyRequest, form: Form) -> Page:
        try:
            token, cookie = self._sessions.sign_in(request, form.get("token", "").strip())
        except Refusal as error:
            if is_program(request):
                raise
            page = self._renderer.page(request, "ops_sign_in.html", HTTPStatus(error.status_code), error=error.detail)
            page.headers.update(error.headers or {})
            return page
        return done(request, {"signed_in": token.name}, cookie)

    def _sign_out(self, request: AnyRequest, _form: Form) -> Page:
        return done(request, {"signed_in": None}, self._sessions.sign_out(request))

    def _pause(self, request: AnyRequest, form: Form) -> Page:
        token = self._sessions.require(request)
        why = _why(form, needed="to pause needs a reason, which everybody sees: why")
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            paused = pausing.pause(db, who=token.name, why=why or "")
            found = paused or pausing.find_pause(db)
        if paused is None and found is not None:
            raise Refusal(HTTPStatus.CONFLICT, f"recording is {found.in_words()}. Nothing was changed")
        return done(request, {"paused": msgspec.to_builtins(paused)})

    def _resume(self, request: AnyRequest, form: Form) -> Page:
        token = self._sessions.require(request)
        why = _why(form)
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            lifted = pausing.resume(db, who=token.name, why=why)
        if lifted is None:
            raise Refusal(HTTPStatus.CONFLICT, "recording is not paused. Nothing was changed")
        return done(request, {"resumed": msgspec.to_builtins(lifted)})

    def _requeue(self, request: AnyRequest, form: Form) -> Page:
        token = self._sessions.require(request)
        why = _why(form)
        try:
            report = self._desk.requeue(form.get("fault", ""), form.get("mark", ""), who=token.name, why=why)
        except Changed as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        except CaselogError as error:  # the apps cannot be imported
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"{error}. Nothing was done") from None
        if is_program(request):
            return _json({**msgspec.to_builtins(report), "failed": len(report.failures)})
        return self._renderer.page(request, "ops_mended.html", verb="requeue", report=report, discarded=0)

    def _discard(self, request: AnyRequest, form: Form) -> Page:
        token = self._sessions.require(request)
        why = _why(form, needed="to discard needs a reason, which the audit keeps: why")
        try:
            discarded = self._desk.discard(form.get("fault", ""), form.get("mark", ""), who=token.name, why=why)
        except Changed as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        if is_program(request):
            return _json({"discarded": discarded})
        return self._renderer.page(
            request, "ops_mended.html", verb="discard", report=Report(chosen=discarded), discarded=discarded
        )


def _why(form: Form, *, needed: str | None = None) -> str | None:
    """The reason that was given. Raises `Refusal` where it is `needed`, or longer than anybody reads."""
    why = " ".join(form.get("why", "").split())
    if len(why) > WHY_CHARACTERS_MAX:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the reason has more than {WHY_CHARACTERS_MAX} characters")
    if not why and needed is not None:
        raise Refusal(HTTPStatus.BAD_REQUEST, needed)
    return why or None


def _json(said: Any) -> Response[bytes]:
    return Response(msgspec.json.encode(said), media_type=MediaType.JSON)
