"""The description of all that is served over HTTP, at /openapi.json (OpenAPI 3.1)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, TypeAlias

from litestar import Router
from litestar.enums import HttpMethod
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import (
    Components,
    OpenAPIFormat,
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    Parameter,
    Reference,
    RequestBody,
    Schema,
    SecurityScheme,
)

from caselog.events.model.codes import NAME_CHARACTERS, Role
from caselog.events.model.message import BATCH_TYPE, EARLIEST_YEAR, EVENT_TYPE, LATEST_YEAR, NOTES_CHARACTERS_MAX
from caselog.schema.reports.catalogue import REPORTS
from caselog.schema.reports.reading import PERIODS, filters
from caselog.workers.access.callers import NEEDS, Need
from caselog.workers.access.sessions import COOKIE
from caselog.workers.web.cloudevents import BATCH_EVENTS_MAX, JSON_TYPE

READ: Final = [HttpMethod.GET, HttpMethod.HEAD]
PATH: Final = "/openapi.json"
Answers: TypeAlias = Mapping[int, Mapping[str, Schema]]
"""What may be answered: of each status, the media types with what each holds."""

NO_NUL: Final = r"^[^\u0000]*$"
TEXT: Final = Schema(type=OpenAPIType.STRING)
NUMBER: Final = Schema(type=OpenAPIType.INTEGER)
DAY: Final = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE)
MOMENT: Final = Schema(type=OpenAPIType.STRING, format=OpenAPIFormat.DATE_TIME)
FLAG: Final = Schema(type=OpenAPIType.BOOLEAN)
_OPTIONAL_TEXT: Final = Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL])


def record(**members: Schema) -> Schema:
    """An object that has all of these members."""
    return Schema(type=OpenAPIType.OBJECT, required=sorted(members), properties=dict(members))


def array(items: Schema) -> Schema:
    return Schema(type=OpenAPIType.ARRAY, items=items)


def text(least: int, most: int, **more: Any) -> Schema:
    """A text of so many characters, none of which is NUL."""
    return Schema(type=OpenAPIType.STRING, min_length=least, max_length=most, pattern=NO_NUL, **more)


def or_null(schema: Schema) -> Schema:
    return Schema(any_of=[schema, Schema(type=OpenAPIType.NULL)])


def or_empty(*schemas: Schema) -> Schema:
    """A form sends every field: of a parameter, an empty text says nothing."""
    return Schema(any_of=[*schemas, Schema(type=OpenAPIType.STRING, max_length=0)])


PAGE: Final = {"text/html": TEXT}
REFUSAL: Final = {"application/json": record(status=NUMBER, detail=TEXT)}
CHECKS: Final = {
    "application/json": Schema(
        type=OpenAPIType.OBJECT,
        required=["*"],
        additional_properties=Schema(
            type=OpenAPIType.OBJECT,
            required=["status"],
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
        "from": DAY,
        "to": DAY,
        "by": _OPTIONAL_TEXT,
        "now": MOMENT,
        "where": Schema(type=OpenAPIType.OBJECT, description="null: only empty ones"),
        "columns": array(_COLUMN),
        "rows": array(_ROW),
        "totals": Schema(type=OpenAPIType.OBJECT, description="each measure over all rows; empty of a list"),
    },
)


def query(name: str, description: str, schema: Schema) -> Parameter:
    return Parameter(name=name, param_in="query", required=False, description=description, schema=schema)


def one_of(names: Iterable[str]) -> Schema:
    return Schema(type=OpenAPIType.STRING, enum=list(names))


FORMS: Final = {"html": "text/html", "json": "application/json", "csv": "text/csv"}
"""The forms of an answer, each with its media type."""
_FILTERS: Final = sorted({column.name for report in REPORTS.values() for column in filters(report)})
_CONDITION: Final = Schema(type=OpenAPIType.STRING, pattern=f"^({'|'.join(_FILTERS)})=[^\\u0000]*$")
_ASKED: Final = (
    query("from", "first local day, included; 29 days before the last. Not after it", or_empty(DAY)),
    query("to", "last local day, included; today", or_empty(DAY)),
    query("by", "sum up days, weeks or months; only of reports that list it under `by`", or_empty(one_of(PERIODS))),
    query(
        "where",
        "COLUMN=VALUE: only rows that match; no value: only empty ones. May be repeated, for columns that the report "
        "lists under `filters`",
        array(or_empty(_CONDITION)),
    ),
    query(
        "now",
        "the moment of asking, for what depends on it; a day means its end, and without an offset it is local",
        or_empty(MOMENT, DAY),
    ),
)
_FORM: Final = "the form of the answer; else what the header Accept prefers"
REPORT_PARAMETERS: Final = (
    Parameter(name="name", param_in="path", required=True, description="which report", schema=one_of(REPORTS)),
    *_ASKED,
    query("format", _FORM, or_empty(one_of(FORMS))),
)
REPORT_LIST_PARAMETERS: Final = (
    query("report", "go to this report, with the rest of the query", or_empty(one_of(REPORTS))),
    *_ASKED,
    query("format", _FORM, or_empty(one_of(["html", "json"]))),
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


# As caselog.events.model.message reads it.
_NAME: Final = text(1, NAME_CHARACTERS)
_IDENTIFIER: Final = text(1, 255)
_MEMBERS: Final = or_null(Schema(type=OpenAPIType.OBJECT))
_ACTOR: Final = Schema(
    type=OpenAPIType.OBJECT,
    required=["id"],
    properties={"id": _IDENTIFIER, "role": or_null(one_of(Role)), "provider": or_null(_NAME)},
)
_DATA: Final = Schema(
    type=OpenAPIType.OBJECT,
    properties={
        "code": or_null(_NAME),
        "actor": or_null(_ACTOR),
        "notes": or_null(text(0, NOTES_CHARACTERS_MAX)),
        "context": _MEMBERS,
        "params": _MEMBERS,
        "patch": or_null(Schema(type=[OpenAPIType.OBJECT, OpenAPIType.ARRAY])),
    },
)
_EVENT: Final = Schema(
    type=OpenAPIType.OBJECT,
    description=f"a CloudEvent, as docs/events.md describes it; its year is {EARLIEST_YEAR} to {LATEST_YEAR}, and "
    "where its type is about a case, its subject is needed; data_base64 may hold the JSON of data in its place",
    required=["id", "source", "specversion", "time", "type"],
    properties={
        "specversion": one_of(["1.0"]),
        "id": _IDENTIFIER,
        "source": _IDENTIFIER,
        "type": _NAME,
        "subject": or_null(_IDENTIFIER),
        "time": MOMENT,
        "datacontenttype": _OPTIONAL_TEXT,
        "dataschema": _OPTIONAL_TEXT,
        "traceparent": _OPTIONAL_TEXT,
        "tracestate": _OPTIONAL_TEXT,
        "data": _DATA,
    },
)
EVENTS_BODY: Final = {
    EVENT_TYPE: _EVENT,
    BATCH_TYPE: Schema(type=OpenAPIType.ARRAY, items=_EVENT, max_items=BATCH_EVENTS_MAX),
    JSON_TYPE: _DATA,
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
                required=["error", "position", "reason"],
                properties={
                    "position": NUMBER,
                    "reason": TEXT,
                    "error": TEXT,
                    "source": _OPTIONAL_TEXT,
                    "id": _OPTIONAL_TEXT,
                },
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


BEARER: Final = "bearer"
SESSION: Final = "session"


def operation(
    answers: Answers,
    parameters: Sequence[Parameter] = (),
    body: Mapping[str, Schema] | None = None,
    security: Sequence[str] = (),
    *,
    is_needed: bool = True,
) -> type[Operation]:
    """An operation that takes these parameters and this body, and may answer this and nothing else.

    `security` names the ways to say who asks, any one of which is needed. `is_needed`: without a body it is refused.

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
            self.security = [{name: []} for name in security] or None
            if body is not None:
                contents = {name: OpenAPIMediaType(schema=schema) for name, schema in body.items()}
                self.request_body = RequestBody(content=contents, required=is_needed)

    return Described


def configuration(version: str) -> OpenAPIConfig:
    """The document alone: the pages that Litestar offers to read it with load scripts from elsewhere."""
    return OpenAPIConfig(
        title="caselog",
        version=version,
        description="The status worker of caselog: health, metrics, reports, and events over HTTP.",
        components=Components(
            security_schemes={
                BEARER: SecurityScheme(type="http", scheme="bearer", description="a token of CASELOG_API_TOKENS"),
                SESSION: SecurityScheme(
                    type="apiKey", name=COOKIE, security_scheme_in="cookie", description="who signed in at /sign-in"
                ),
            }
        ),
        openapi_router=Router(PATH, route_handlers=[], include_in_schema=False, opt={NEEDS: Need.READER}),
        render_plugins=[JsonRenderPlugin(path="/")],
    )
