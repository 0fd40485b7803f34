"""The description of all that is served over HTTP, at /openapi.json (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias

from litestar import Router
from litestar.enums import HttpMethod
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
)

from schema.reports.finding import REPORTS
from schema.reports.reading import PERIODS

READ: Final = [HttpMethod.GET, HttpMethod.HEAD]
PATH: Final = "/openapi.json"
Answers: TypeAlias = Mapping[int, Mapping[str, Schema]]
"""What may be answered: of each status, the media types with what each holds."""

TEXT: Final = Schema(type=OpenAPIType.STRING)
NUMBER: Final = Schema(type=OpenAPIType.INTEGER)
_DAY: Final = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE)
_MOMENT: Final = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)
FLAG: Final = Schema(type=OpenAPIType.BOOLEAN)
_OPTIONAL_TEXT: Final = Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL])


def record(**members: Schema) -> Schema:
    """An object that has all of these members."""
    return Schema(type=OpenAPIType.OBJECT, required=sorted(members), properties=dict(members))


def array(items: Schema) -> Schema:
    return Schema(type=OpenAPIType.ARRAY, items=items)


PAGE: Final = {"text/html": TEXT}
REFUSAL: Final = {"application/json": record(status=NUMBER, detail=TEXT)}
CHECKS: Final = {
    "application/json": Schema(
        type=OpenAPIType.OBJECT,
        required=["*"],
        additional_properties=Schema(
            type=OpenAPIType.OBJECT,
            required=["status", "value"],
            properties={"status": FLAG, "value": TEXT, "threshold": TEXT, "hint": TEXT},
        ),
    )
}
VERSIONS: Final = {
    "application/json": record(
        version_number=_OPTIONAL_TEXT, build_date=_OPTIONAL_TEXT, commit_id=_OPTIONAL_TEXT, build_tag=_OPTIONAL_TEXT
    )
}
ALIVE: Final = {"application/json": record(status=FLAG)}
METRICS: Final = {"text/plain": TEXT}

_COLUMN: Final = record(name=TEXT, kind=TEXT, unit=TEXT, description=TEXT)
_REPORTS: Final = array(
    record(
        name=TEXT,
        description=TEXT,
        period=TEXT,
        columns=array(_COLUMN),
        filters=array(TEXT),
        by=array(TEXT),
    )
)
_ROW: Final = Schema(
    type=OpenAPIType.OBJECT, description="each column's value by its name; moments are RFC 3339 in UTC"
)
_REPORT: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["report", "from", "to", "by", "now", "where", "columns", "rows", "totals"],
    properties={
        "report": TEXT,
        "from": _DAY,
        "to": _DAY,
        "by": _OPTIONAL_TEXT,
        "now": _MOMENT,
        "where": Schema(type=OpenAPIType.OBJECT, description="null: only empty ones"),
        "columns": array(_COLUMN),
        "rows": array(_ROW),
        "totals": Schema(type=OpenAPIType.OBJECT, description="each measure over all rows; empty of a list"),
    },
)


def _query(name: str, description: str, schema: Schema = TEXT) -> Parameter:
    return Parameter(name=name, param_in="query", required=False, description=description, schema=schema)


def _one_of(names: Iterable[str]) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=list(names))


FORMS: Final = {"html": "text/html", "json": "application/json", "csv": "text/csv"}
"""The forms of an answer, each with its media type."""
_ASKED: Final = (
    _query("from", "first local day, included; 29 days before the last", _DAY),
    _query("to", "last local day, included; today", _DAY),
    _query("by", "sum up days, weeks or months; only of reports that list it under `by`", _one_of(PERIODS)),
    _query("where", "COLUMN=VALUE: only rows that match; no value: only empty ones. May be repeated", array(TEXT)),
    _query("now", "the moment of asking, for what depends on it", _MOMENT),
)
REPORT_PARAMETERS: Final = (
    Parameter(name="name", param_in="path", required=True, description="which report", schema=_one_of(REPORTS)),
    *_ASKED,
    _query("format", "the form of the answer; else what the header Accept prefers", _one_of(FORMS)),
)
REPORT_LIST_PARAMETERS: Final = (
    _query("report", "go to this report, with the rest of the query", _one_of(REPORTS)),
    *_ASKED,
    _query("format", "the form of the answer; else what the header Accept prefers", _one_of(["html", "json"])),
)
REPORT_LIST_ANSWERS: Final[Answers] = {
    200: {**PAGE, "application/json": _REPORTS},
    303: {},
    400: {**PAGE, **REFUSAL},
    404: {**PAGE, **REFUSAL},
}
REPORT_ANSWERS: Final[Answers] = {
    200: {**PAGE, "application/json": _REPORT, "text/csv": TEXT},
    400: {**PAGE, **REFUSAL},
    404: {**PAGE, **REFUSAL},
    503: {**PAGE, **REFUSAL},
}


_EVENT: Final = Schema(
    type=OpenAPIType.OBJECT,
    description="a CloudEvent, as docs/events.md describes it",
    required=["id", "source", "specversion", "time", "type"],
    properties={"specversion": TEXT, "id": TEXT, "source": TEXT, "type": TEXT, "subject": TEXT, "time": _MOMENT},
)
EVENTS_BODY: Final = {
    "application/cloudevents+json": _EVENT,
    "application/cloudevents-batch+json": array(_EVENT),
    "application/json": Schema(description="the event's data; its attributes are headers that begin with ce-"),
}
_FAULTS: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["detail", "status"],
    properties={
        "status": NUMBER,
        "detail": TEXT,
        "events": array(
            Schema(
                type=OpenAPIType.OBJECT,
                required=["error", "position"],
                properties={"position": NUMBER, "error": TEXT, "source": _OPTIONAL_TEXT, "id": _OPTIONAL_TEXT},
            )
        ),
    },
)
EVENTS_ANSWERS: Final[Answers] = {
    202: {"application/json": record(accepted=NUMBER)},
    400: {"application/json": _FAULTS},
    **dict.fromkeys((401, 403, 415, 429, 503), REFUSAL),
    413: {"application/json": _FAULTS},
}


def operation(
    answers: Answers, parameters: Sequence[Parameter] = (), body: Mapping[str, Schema] | None = None
) -> type[Operation]:
    """An operation that takes these parameters and this body, and may answer this and nothing else.

    Litestar would tell both from a handler's signature, but only one media type a status, and no names of reports.
    """
    answered: dict[str, OpenAPIResponse | Reference] = {
        str(status): OpenAPIResponse(
            description=HTTPStatus(status).phrase,
            content={name: OpenAPIMediaType(schema=schema) for name, schema in contents.items()} or None,
        )
        for status, contents in answers.items()
    }

    @dataclass
    class Described(Operation):
        def __post_init__(self) -> None:
            self.parameters = list(parameters) or None
            self.responses = answered
            if body is not None:
                contents = {name: OpenAPIMediaType(schema=schema) for name, schema in body.items()}
                self.request_body = RequestBody(content=contents, required=True)

    return Described


def configuration(version: str) -> OpenAPIConfig:
    """The document alone: the pages that Litestar offers to read it with load scripts from elsewhere."""
    return OpenAPIConfig(
        title="caselog",
        version=version,
        description="The status worker of caselog: health, metrics, reports, and events over HTTP.",
        openapi_router=Router(PATH, route_handlers=[], include_in_schema=False),
        render_plugins=[JsonRenderPlugin(path="/")],
    )
