"""What may be done on the ops page by whoever has an operator's token; the audit says whose it was."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from http import HTTPStatus
from typing import Any, Final, TypeAlias

import msgspec
from litestar import MediaType, Response, post
from litestar.exceptions import HTTPException, NotFoundException
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from sqlalchemy import Engine

from caselog.events.errors import CaselogError
from caselog.events.phrases import sentence
from caselog.schema.operations import pause as pausing
from caselog.schema.sessions.connection import limit_statements
from caselog.workers.access.admission import Admission
from caselog.workers.access.callers import Need, caller_of
from caselog.workers.access.refusals import AnyRequest, Refusal
from caselog.workers.deadletters.masking import without_messages
from caselog.workers.deadletters.parked import Paused
from caselog.workers.deadletters.requeue import Report
from caselog.workers.health.checks import STATEMENT_TIMEOUT_MS
from caselog.workers.web.ops import openapi as described
from caselog.workers.web.ops.openapi import PARKED_VERBS, VERBS, WHY_CHARACTERS_MAX
from caselog.workers.web.ops.pages import as_text
from caselog.workers.web.ops.selection import Changed, Selection
from caselog.workers.web.rendering import Page, PageRenderer, done, is_program

FORM_BYTES_MAX: Final = 16 * 1024
_DISCARD_NEEDS: Final = "to discard needs a reason, which the audit keeps: why"
_NO_FORM: Final = "the form cannot be read: send it in UTF-8"

Form: TypeAlias = dict[str, str]


class OpsActions:
    """The routes that change something."""

    def __init__(self, engine: Engine, selection: Selection, renderer: PageRenderer, admission: Admission) -> None:
        self._engine = engine
        self._selection = selection
        self._renderer = renderer
        self._admission = admission

    def handlers(self) -> list[HTTPRouteHandler]:
        """The routes. Forms are read on the event loop; what is done is done in threads."""
        form = partial(post, request_max_body_size=FORM_BYTES_MAX, status_code=HTTPStatus.OK)
        action = partial(form, needs=Need.OPERATOR)

        @form("/sign-in", needs=Need.NOTHING, operation_class=described.SIGN_IN, summary="Sign in")
        async def sign_in(request: AnyRequest) -> Page:
            return await self._act(request, self._sign_in)

        @form("/sign-out", needs=Need.NOTHING, operation_class=described.SIGN_OUT, summary="Sign out")
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

        @action(
            "/parked/{verb:str}",
            operation_class=described.MEND_PARKED,
            summary="Try or discard the parked events that were shown",
        )
        async def mend_parked(request: AnyRequest, verb: FromPath[str]) -> Page:
            if verb not in PARKED_VERBS:
                raise NotFoundException
            return await self._act(request, self._retry_parked if verb == "retry" else self._discard_parked)

        return [sign_in, sign_out, pause, resume, mend, mend_parked]

    async def _act(self, request: AnyRequest, work: Callable[[AnyRequest, Form], Page]) -> Page:
        try:
            form = {name: as_text(value) for name, value in (await request.form()).items()}
        except HTTPException:
            raise
        except Exception:  # noqa: BLE001 - all that is done here is to read what was sent, in whatever charset it names
            raise Refusal(HTTPStatus.BAD_REQUEST, _NO_FORM) from None
        return await asyncio.to_thread(self._renderer.answered, request, lambda: work(request, form))

    def _sign_in(self, request: AnyRequest, form: Form) -> Page:
        to = form.get("to", "")
        try:
            token, cookie = self._admission.sign_in(request, form.get("token", "").strip())
        except Refusal as error:
            if is_program(request):
                raise
            status = HTTPStatus(error.status_code)
            page = self._renderer.page(request, "ops_sign_in.html", status, error=error.detail, to=to)
            page.headers.update(error.headers or {})
            return page
        # Who is bound to a provider has no ops page.
        return done(
            request, {"signed_in": token.name}, cookie, to=to or ("" if token.grant.provider is None else "reports")
        )

    def _sign_out(self, request: AnyRequest, _form: Form) -> Page:
        return done(
            request,
            {"signed_in": None},
            self._admission.sign_out(request),
            to="" if self._admission.is_open else "sign-in",
        )

    def _pause(self, request: AnyRequest, form: Form) -> Page:
        why = _why(form, needed="to pause needs a reason, which everybody sees: why")
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            paused = pausing.pause(db, who=_who(request), why=why or "")
            found = paused or pausing.find_pause(db)
        if paused is None and found is not None:
            raise Refusal(HTTPStatus.CONFLICT, f"recording is {sentence(found.in_words())} Nothing was changed")
        return done(request, {"paused": msgspec.to_builtins(paused)})

    def _resume(self, request: AnyRequest, form: Form) -> Page:
        why = _why(form)
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            lifted = pausing.resume(db, who=_who(request), why=why)
        if lifted is None:
            raise Refusal(HTTPStatus.CONFLICT, "recording is not paused. Nothing was changed")
        return done(request, {"resumed": msgspec.to_builtins(lifted)})

    def _requeue(self, request: AnyRequest, form: Form) -> Page:
        why = _why(form)
        try:
            report = self._selection.requeue(form.get("fault", ""), form.get("mark", ""), who=_who(request), why=why)
        except Changed as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        except CaselogError as error:  # the apps cannot be imported
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"{sentence(error)} Nothing was done") from None
        if is_program(request):
            said = {**msgspec.to_builtins(report), "failed": len(report.failures)}
            return _json(said if caller_of(request).reads_personal else without_messages(said, "failures"))
        return self._renderer.page(request, "ops_mended.html", verb="requeue", report=report, discarded=0)

    def _discard(self, request: AnyRequest, form: Form) -> Page:
        why = _why(form, needed=_DISCARD_NEEDS)
        try:
            discarded = self._selection.discard(form.get("fault", ""), form.get("mark", ""), who=_who(request), why=why)
        except Changed as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        if is_program(request):
            return _json({"discarded": discarded})
        return self._renderer.page(
            request, "ops_mended.html", verb="discard", report=Report(chosen=discarded), discarded=discarded
        )

    def _retry_parked(self, request: AnyRequest, form: Form) -> Page:
        why = _why(form)
        try:
            report = self._selection.retry_parked(
                form.get("case", ""), form.get("mark", ""), who=_who(request), why=why
            )
        except (Changed, Paused) as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        except CaselogError as error:  # the apps cannot be imported
            raise Refusal(HTTPStatus.INTERNAL_SERVER_ERROR, f"{sentence(error)} Nothing was done") from None
        if is_program(request):
            said = report.told()
            return _json(said if caller_of(request).reads_personal else without_messages(said, "events"))
        return self._renderer.page(request, "ops_parked_done.html", verb="retry", report=report, discarded=0)

    def _discard_parked(self, request: AnyRequest, form: Form) -> Page:
        why = _why(form, needed=_DISCARD_NEEDS)
        try:
            discarded = self._selection.discard_parked(
                form.get("case", ""), form.get("mark", ""), who=_who(request), why=why
            )
        except Changed as error:
            raise Refusal(HTTPStatus.CONFLICT, str(error)) from None
        if is_program(request):
            return _json({"discarded": discarded})
        return self._renderer.page(request, "ops_parked_done.html", verb="discard", report=None, discarded=discarded)


def _who(request: AnyRequest) -> str:
    """Who does it. The door has told, and let no one in who is not an operator."""
    name = caller_of(request).name
    assert name is not None
    return name


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
