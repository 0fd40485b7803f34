"""What the ops page offers to programs, and its forms, as /openapi.json describes them."""

from __future__ import annotations

from typing import Final

from litestar.openapi.spec import OpenAPIType, Operation, Parameter, Schema

from caselog.workers.web.openapi import (
    BEARER,
    MOMENT,
    NUMBER,
    PAGE,
    REFUSAL,
    SESSION,
    TEXT,
    one_of,
    operation,
    or_empty,
    query,
    record,
)

VERBS: Final = ("requeue", "discard")
PARKED_VERBS: Final = ("retry", "discard")
WHY_CHARACTERS_MAX: Final = 500

_EITHER: Final = {**PAGE, **REFUSAL}
_FORM: Final = "application/x-www-form-urlencoded"
_PARKED_VERB: Final = Parameter(name="verb", param_in="path", required=True, schema=one_of(PARKED_VERBS))
_VERB: Final = Parameter(name="verb", param_in="path", required=True, schema=one_of(VERBS))
_WHY: Final = Schema(
    type=OpenAPIType.STRING, max_length=WHY_CHARACTERS_MAX, pattern=r"\S", description="what the audit says"
)
_WHY_IF_ANY: Final = Schema(type=OpenAPIType.STRING, max_length=WHY_CHARACTERS_MAX, description="what the audit says")
_DONE: Final = Schema(type=OpenAPIType.OBJECT, description="what was done")
_MAY_REFUSE: Final = {**dict.fromkeys((400, 401, 403, 409, 413, 429, 503), _EITHER)}

SHOWN: Final = operation({200: PAGE})
AUDIT: Final = operation(
    {200: PAGE, 400: _EITHER, 503: _EITHER},
    [
        query("until", "only what was done before this moment", or_empty(MOMENT)),
        query("reads", "who read what, in place of what was done", TEXT),
    ],
)
_SHOWN_BEFORE: Final = {
    200: {**PAGE, "application/json": record(chosen=NUMBER, total=NUMBER, mark=TEXT)},
    404: REFUSAL,
    503: _EITHER,
}
CHOSEN: Final = operation(
    _SHOWN_BEFORE,
    [_VERB, query("fault", "which dead letters: their fault, as `caselog dead list --group` shows it", TEXT)],
)

CHOSEN_PARKED: Final = operation(
    _SHOWN_BEFORE,
    [_PARKED_VERB, query("case", "which parked events: the reference of the case that they wait for", TEXT)],
)


def acting(*required: str, parameters: tuple[Parameter, ...] = (), **fields: Schema) -> type[Operation]:
    """An operation that changes something: a form with these fields, and who it is that asks."""
    form = Schema(type=OpenAPIType.OBJECT, required=list(required) or None, properties=dict(fields))
    answers = {200: {**PAGE, "application/json": _DONE}, 303: {}, **_MAY_REFUSE, 404: REFUSAL, 500: _EITHER}
    return operation(answers, parameters, {_FORM: form}, [BEARER, SESSION], is_needed=bool(required))


PAUSE: Final = acting("why", why=_WHY)
RESUME: Final = acting(why=_WHY_IF_ANY)
# To requeue, a reason may be left out.
MEND: Final = acting("fault", "mark", "why", parameters=(_VERB,), fault=TEXT, mark=TEXT, why=_WHY)
MEND_PARKED: Final = acting("case", "mark", "why", parameters=(_PARKED_VERB,), case=TEXT, mark=TEXT, why=_WHY)
SIGN_IN: Final = operation(
    {
        200: {"application/json": record(signed_in=TEXT)},
        303: {},
        **dict.fromkeys((403, 413, 429), _EITHER),
        400: REFUSAL,
    },
    body={
        _FORM: Schema(
            type=OpenAPIType.OBJECT,
            required=["token"],
            properties={
                "token": TEXT,
                "to": Schema(
                    type=OpenAPIType.STRING, description="the page to go to then: a path below where ours begin"
                ),
            },
        )
    },
)
SIGN_OUT: Final = operation(
    {200: {"application/json": record(signed_in=Schema(type=OpenAPIType.NULL))}, 303: {}, 403: _EITHER}
)
