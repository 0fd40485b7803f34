"""The ops page over HTTP: is it well, what waits, what died, who did what."""

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

from caselog.events.phrases import storable
from caselog.schema.operations import audit
from caselog.schema.operations.audit import AuditEntry
from caselog.schema.operations.reads import ACTION as READ_ACTION
from caselog.schema.sessions.connection import limit_statements
from caselog.workers.access.callers import Need, caller_of
from caselog.workers.access.reads import read_of
from caselog.workers.access.refusals import AnyRequest, Refusal
from caselog.workers.deadletters.masking import without_searched
from caselog.workers.health.checks import STATEMENT_TIMEOUT_MS
from caselog.workers.web.openapi import READ
from caselog.workers.web.ops import openapi as described
from caselog.workers.web.ops.openapi import PARKED_VERBS, VERBS
from caselog.workers.web.ops.overview import OpsView, Stored
from caselog.workers.web.ops.selection import LETTERS_MAX, Chosen, ChosenParked, Selection
from caselog.workers.web.ops.wording import cases_written, detail
from caselog.workers.web.rendering import Page, PageRenderer, is_program

AUDIT_PAGE: Final = 100


class OpsPages:
    """The pages that only show, the forms of what may be done among them."""

    def __init__(self, engine: Engine, view: OpsView, selection: Selection, renderer: PageRenderer) -> None:
        self._engine = engine
        self._view = view
        self._selection = selection
        self._renderer = renderer

    def handlers(self) -> list[HTTPRouteHandler]:
        """The routes. What they ask takes its time, so that is done in threads.

        Not by Litestar's `sync_to_thread`: it wraps a function twice whose path has another handler too.
        """
        shown = partial(route, http_method=READ, media_type=MediaType.HTML, needs=Need.UNBOUND_READER)

        @shown("/", reads="operations", operation_class=described.SHOWN, summary="The ops page")
        async def home(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._installation, request, "ops.html")

        @shown(
            "/now",
            reads="operations",
            operation_class=described.SHOWN,
            summary="What stands on the ops page, as a part of a page",
        )
        async def now(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._installation, request, "ops_now.html", refreshes=True)

        @shown("/audit", reads="audit", operation_class=described.AUDIT, summary="What was done by hand")
        async def audit_trail(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._renderer.answered, request, lambda: self._audit(request))

        @shown("/sign-in", needs=Need.NOTHING, operation_class=described.SHOWN, summary="The form to sign in")
        async def sign_in_form(request: AnyRequest) -> Page:
            return self._renderer.page(request, "ops_sign_in.html", to="")

        @shown("/pause", operation_class=described.SHOWN, summary="The form to pause recording")
        async def pause_form(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._now, request, "ops_pause.html", verb="pause")

        @shown("/resume", operation_class=described.SHOWN, summary="The form to resume recording")
        async def resume_form(request: AnyRequest) -> Page:
            return await asyncio.to_thread(self._now, request, "ops_pause.html", verb="resume")

        @shown(
            "/dead/{verb:str}",
            reads="dead letters",
            operation_class=described.CHOSEN,
            summary="Which dead letters would be mended",
        )
        async def mend_form(request: AnyRequest, verb: FromPath[str]) -> Page:
            return await asyncio.to_thread(self._renderer.answered, request, lambda: self._mend(request, verb))

        @shown(
            "/parked/{verb:str}",
            reads="parked events",
            operation_class=described.CHOSEN_PARKED,
            summary="Which parked events are meant",
        )
        async def parked_form(request: AnyRequest, verb: FromPath[str]) -> Page:
            return await asyncio.to_thread(self._renderer.answered, request, lambda: self._mend_parked(request, verb))

        return [home, now, audit_trail, sign_in_form, pause_form, resume_form, mend_form, parked_form]

    def _installation(self, request: AnyRequest, template: str, *, refreshes: bool = False) -> Page:
        ops = self._view.look(afresh="fresh" in request.query_params)
        read, stored = read_of(request), ops.stored
        read.refreshes = refreshes
        entries = _told(request, stored.audit) if stored is not None else []
        if stored is not None:
            read.cases = sorted({waited.case_reference for waited in stored.waited} | _cases(entries))
            read.shown = _shown(stored, entries)
            read.rows = len(stored.groups) + len(stored.waited) + len(entries)
        read.of_cases = bool(read.rows)
        return self._renderer.page(request, template, ops=ops, entries=entries)

    def _now(self, request: AnyRequest, template: str, *, afresh: bool = False, **context: Any) -> Page:
        return self._renderer.page(request, template, ops=self._view.look(afresh=afresh), **context)

    def _audit(self, request: AnyRequest) -> Page:
        until = _moment(request.query_params.get("until"))
        reads = "reads" in request.query_params
        only, but = (READ_ACTION, None) if reads else (None, READ_ACTION)
        with self._engine.begin() as db:
            limit_statements(db, STATEMENT_TIMEOUT_MS)
            entries = list(audit.list_audit(db, action=only, but=but, until=until, limit=AUDIT_PAGE + 1))
        told = _told(request, entries[:AUDIT_PAGE])
        read = read_of(request)
        read.filter = {"until": until, "reads": reads or None}  # None: it was not asked for
        read.cases = sorted(_cases(told))
        read.rows = len(told)
        return self._renderer.page(
            request,
            "ops_audit.html",
            entries=told,
            older=entries[AUDIT_PAGE].at if len(entries) > AUDIT_PAGE else None,
            is_newest=until is None,
            reads=reads,
        )

    def _mend(self, request: AnyRequest, verb: str) -> Page:
        if verb not in VERBS:
            raise NotFoundException
        chosen = self._selection.choose(as_text(request.query_params.get("fault")))
        read = read_of(request)
        read.filter = {"fault": chosen.fault}
        read.rows = len(chosen.first)
        read.cases = sorted({letter.case_reference for letter in chosen.first if letter.case_reference})
        return self._chosen(request, "ops_mend.html", verb, chosen, len(chosen.letters))

    def _mend_parked(self, request: AnyRequest, verb: str) -> Page:
        if verb not in PARKED_VERBS:
            raise NotFoundException
        chosen = self._selection.choose_parked(as_text(request.query_params.get("case")))
        read = read_of(request)
        read.case = chosen.case
        read.rows = len(chosen.first)
        return self._chosen(request, "ops_parked.html", verb, chosen, len(chosen.events))

    def _chosen(self, request: AnyRequest, template: str, verb: str, chosen: Chosen | ChosenParked, many: int) -> Page:
        if is_program(request):
            said = {"chosen": many, "total": chosen.total, "mark": chosen.mark}
            return Response(msgspec.json.encode(said), media_type=MediaType.JSON)
        return self._renderer.page(request, template, verb=verb, chosen=chosen, many=many, most=LETTERS_MAX)


def _told(request: AnyRequest, entries: list[AuditEntry]) -> list[AuditEntry]:
    """The entries, as far as they are for whoever asks."""
    if caller_of(request).reads_personal:
        return entries
    return [msgspec.structs.replace(entry, detail=without_searched(entry.detail)) for entry in entries]


def _cases(entries: list[AuditEntry]) -> set[str]:
    """The cases that the entries name on a page."""
    return {case for entry in entries for case in cases_written(entry.detail)}


def _shown(stored: Stored, entries: list[AuditEntry]) -> list[Any]:
    """What the ops page shows that may be of cases, without what changes of itself, such as when one is tried next."""
    waited = [[one.case_reference, one.events, one.since] for one in stored.waited]
    return [stored.groups, waited, [[entry.id, detail(entry.detail)] for entry in entries]]


def as_text(value: Any) -> str:
    """A parameter's value without what PostgreSQL refuses."""
    return storable(str(value or ""))


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
