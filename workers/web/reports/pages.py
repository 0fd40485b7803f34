"""Reports over HTTP: a page for people; JSON and CSV for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Any, Final

import msgspec
from litestar import MediaType, Request, Response, route
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath
from litestar.response import Redirect, Stream
from sqlalchemy import Engine

from caselog.events.errors import CaselogError, did_you_mean
from caselog.schema.reports.catalogue import REPORTS, UnknownReport
from caselog.schema.reports.choices import read_choices
from caselog.schema.reports.reading import (
    BadRequest,
    By,
    Reading,
    filters,
    periods,
    read_rows,
    read_series,
    read_totals,
)
from caselog.schema.reports.terms.columns import REFERENCE, Column
from caselog.schema.reports.terms.report import Report
from caselog.workers.access.callers import Caller, Need, caller_of
from caselog.workers.access.reads import Read, read_of
from caselog.workers.policy.tokens import TokenRole
from caselog.workers.rows.text import label
from caselog.workers.settings import Settings
from caselog.workers.web.openapi import (
    FORMS,
    READ,
    REPORT_ANSWERS,
    REPORT_LIST_ANSWERS,
    REPORT_LIST_PARAMETERS,
    REPORT_PARAMETERS,
    operation,
)
from caselog.workers.web.reports.bar_chart import Chart, draw, spoken, step
from caselog.workers.web.reports.cells import Cell, cells
from caselog.workers.web.reports.documents import NoAnswer, asking, described, written_answer
from caselog.workers.web.reports.query import DAY, ReportQuery, question
from caselog.workers.web.templating import about, make_environment, root_of

MOST_ROWS: Final = 500


class NotForProviders(CaselogError):
    """A report that somebody who is bound to a provider may not read, or that there is not."""


_STATUS: Final = {
    UnknownReport: HTTPStatus.NOT_FOUND,
    BadRequest: HTTPStatus.BAD_REQUEST,
    NoAnswer: HTTPStatus.SERVICE_UNAVAILABLE,
    NotForProviders: HTTPStatus.FORBIDDEN,
}
_Request = Request[Any, Any, Any]


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """What a report's page shows below its form."""

    caption: str
    reading: Reading
    rows: Sequence[Sequence[Cell]]
    is_cut: bool
    totals: Sequence[Cell]
    chart: Chart | None
    choices: Mapping[str, Sequence[str | None]]


class ReportPages:
    """The reports of one database, each request on a connection of its own."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._zone = settings.zone
        self._templates = make_environment()
        self._can_sign_in = settings.tokens.include(TokenRole.READER)

    def handlers(self) -> list[HTTPRouteHandler]:
        """The routes. They run in threads: what one report takes, no other page waits for."""

        @route(
            "/reports", http_method=READ, sync_to_thread=True, summary="The reports that there are",
            operation_class=operation(REPORT_LIST_ANSWERS, REPORT_LIST_PARAMETERS), needs=Need.READER,
        )  # fmt: skip
        def list_reports(request: _Request) -> Response[Any]:
            return self._list(request)

        @route(
            "/reports/{name:str}", http_method=READ, sync_to_thread=True, summary="A report for a range of days",
            operation_class=operation(REPORT_ANSWERS, REPORT_PARAMETERS), needs=Need.READER, reads="report",
        )  # fmt: skip
        def show_report(request: _Request, name: FromPath[str]) -> Response[Any]:
            return self._show(request, name)

        return [list_reports, show_report]

    def _list(self, request: _Request) -> Response[Any]:
        name = request.query_params.get("report")
        asked = None
        try:
            form = _form(request, {"html", "json"})
            # Without one, what is asked is of no use; but what no report understands is said so all the same.
            report = _report(name, caller_of(request)) if name else next(iter(_reports(caller_of(request)).values()))
            question = self._question(request, report).about(report)
            asked = question if name else None
            question.reading()
        except (UnknownReport, NotForProviders, BadRequest) as error:
            return self._refuse(request, error, asked)
        if name:
            more = {"format": form} if "format" in request.query_params else {}
            return Redirect(f"{root_of(request.scope)}reports/{name}?{question.query(**more)}", status_code=303)
        if form == "json":
            return _json([described(report) for report in _reports(caller_of(request)).values()], HTTPStatus.OK)
        return self._listed(request, HTTPStatus.OK, "")

    def _show(self, request: _Request, name: str) -> Response[Any]:
        asked = None
        try:
            asked = self._question(request, _report(name, caller_of(request)))
            form = _form(request, set(FORMS))
            reading = msgspec.structs.replace(asked.reading(), provider=caller_of(request).provider)
            read = _begun(request, reading)
            if form == "html":
                with asking(self._engine) as db:
                    shown = self._shown(db, reading)
                read.rows = len(shown.rows)
                return self._report_page(request, asked, shown, HTTPStatus.OK, "")
            found = written_answer(self._engine, reading, form, lambda rows: setattr(read, "rows", rows))
            size = found.size()
        except (UnknownReport, NotForProviders, BadRequest, NoAnswer) as error:
            return self._refuse(request, error, asked)
        # What takes longer is sent as it comes, without a length: one that breaks off is then told from a whole one.
        headers = {} if size is None else {"content-length": str(size)}
        if form == "csv":
            headers["content-disposition"] = f'attachment; filename="{name}_{reading.first}_{reading.last}.csv"'
        if request.method == "HEAD":
            found.close()
        return Stream(found.chunks(), media_type=FORMS[form], headers=headers)

    def _question(self, request: _Request, report: Report) -> ReportQuery:
        return question(report, request.query_params.multi_items(), self._zone, datetime.now(UTC))

    def _shown(self, db: Any, reading: Reading) -> Shown:
        columns = reading.columns
        rows = list(read_rows(db, reading, most=MOST_ROWS + 1))
        measures = reading.report.measures
        totals = read_totals(db, reading) if measures and rows else ()
        by: By = "month" if reading.report.is_monthly else step(reading.first, reading.last, reading.by)
        main = reading.report.main_measure
        return Shown(
            caption=_caption(reading),
            reading=reading,
            rows=[cells(columns, row, self._zone) for row in rows[:MOST_ROWS]],
            is_cut=len(rows) > MOST_ROWS,
            totals=cells(measures, totals, self._zone) if totals else (),
            chart=draw(
                read_series(db, reading, by),
                reading.first,
                reading.last,
                by,
                what=label(main.name if main else "rows"),
                unit=main.unit if main else "rows",
            ),
            choices=read_choices(db, reading),
        )

    def _refuse(self, request: _Request, error: CaselogError, asked: ReportQuery | None = None) -> Response[Any]:
        status = _STATUS[type(error)]
        if _prefers(request) != "html":
            return _json({"status": int(status), "detail": str(error)}, status)
        if asked is None:
            return self._listed(request, status, str(error))
        return self._report_page(request, asked, None, status, str(error))

    def _report_page(
        self, request: _Request, asked: ReportQuery, shown: Shown | None, status: HTTPStatus, error: str
    ) -> Response[Any]:
        return self._page(
            request,
            "report.html",
            status,
            report=asked.report,
            reports=list(_reports(caller_of(request))),
            asked=asked,
            # A field for days shows nothing else; the error names what it was.
            days=[day if DAY.fullmatch(day) else "" for day in (asked.first, asked.last)],
            periods=periods(asked.report),
            filters=_filters(asked, shown.choices if shown else {}),
            shown=shown,
            most_rows=MOST_ROWS,
            zone=self._zone.key,
            error=error,
        )

    def _listed(self, request: _Request, status: HTTPStatus, error: str) -> Response[str]:
        reports = list(_reports(caller_of(request)).values())
        return self._page(request, "reports.html", status, reports=reports, error=error)

    def _page(self, request: _Request, template: str, status: HTTPStatus, **context: Any) -> Response[str]:
        more = {**about(request), "can_sign_in": self._can_sign_in}
        text = self._templates.get_template(template).render(**more, **context)
        return Response(text, status_code=status, media_type=MediaType.HTML)


def _reports(caller: Caller) -> Mapping[str, Report]:
    """Those that the caller may read: of one who is bound to a provider, those that tell providers apart."""
    if caller.provider is None:
        return REPORTS
    return {name: report for name, report in REPORTS.items() if report.by_provider}


def _begun(request: _Request, reading: Reading) -> Read:
    """What is read, for the audit. Sums name no case."""
    read = read_of(request)
    where = {name: value or "" for name, value in reading.where.items()}
    read.filter = {"report": reading.report.name, "from": str(reading.first), "to": str(reading.last), **where}
    read.of_cases = reading.report.names_cases
    read.case = reading.where.get(REFERENCE.name)
    return read


def _report(name: str, caller: Caller) -> Report:
    if caller.provider is not None and name not in _reports(caller):
        raise NotForProviders(
            f"of the reports, {caller.name!r} may read those that tell providers apart: {', '.join(_reports(caller))}"
        )
    if name not in REPORTS:
        known = list(REPORTS)
        raise UnknownReport(f"there is no report {name!r}: choose {', '.join(known)}.{did_you_mean(name, known)}")
    return REPORTS[name]


def _form(request: _Request, known: set[str]) -> str:
    """In which form the answer is wanted. Raises `BadRequest`."""
    given = request.query_params.get("format")
    if given and given not in known:
        names = [form for form in FORMS if form in known]
        raise BadRequest(f"format: there is no {given!r}: choose {', '.join(names)}.{did_you_mean(given, names)}")
    preferred = _prefers(request)
    return preferred if preferred in known else "html"


def _prefers(request: _Request) -> str:
    """The form that the request names, or else accepts; a browser's is HTML."""
    given: str = request.query_params.get("format", "")
    if given:
        return given
    media_type = request.accept.best_match(list(FORMS.values()), default=FORMS["html"])
    return next(form for form, name in FORMS.items() if name == media_type)


def _filters(
    asked: ReportQuery, choices: Mapping[str, Sequence[str | None]]
) -> list[tuple[Column, str | None, list[str] | None]]:
    """Each column to filter by, its value that was asked for, and what can be chosen: the empty value as ''.

    A value that was asked for stays, though nothing has it. Where the choices are not known, or too many: None.
    """
    where = dict(asked.where)
    found: list[tuple[Column, str | None, list[str] | None]] = []
    for column in filters(asked.report):
        chosen, options = where.get(column.name), None
        if column.name in choices:
            options = [value or "" for value in choices[column.name]]
            options += [] if chosen is None or chosen in options else [chosen]
        found.append((column, chosen, options))
    return found


def _caption(reading: Reading) -> str:
    days = f"{spoken(reading.first, 'day')} to {spoken(reading.last, 'day')}"
    return f"{label(reading.report.name)}, {days}{f', by {reading.by}' if reading.by else ''}"


def _json(value: Any, status: HTTPStatus) -> Response[bytes]:
    return Response(msgspec.json.encode(value), status_code=status, media_type=MediaType.JSON)
