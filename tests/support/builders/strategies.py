"""Hypothesis strategies for sets of events: few cases, few actors, few moments, so that they meet in every way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any, Final

from hypothesis import strategies as st

from support.builders.episodes import HANG_ON_THE_CASE, episodes
from support.oracle.reference import BY_STATUS, FACTS, SOURCES

Json = dict[str, Any]

# Summer time in London: local midnight is 23:00 UTC, so these moments lie on three local days.
START: Final = datetime(2026, 6, 30, 8, 0, tzinfo=UTC)
_OFFSETS: Final = [
    timedelta(milliseconds=ms) for ms in (0, 0, 1, 500, 1_000, 61_250, 3_600_000, 53_940_000, 54_000_000, 140_400_001)
]
EARLY: Final = START - timedelta(hours=1)

# Upper case sorts before lower case by code points, and after it in most locales; likewise letters with accents.
CASES: Final = ("ab-1", "AB-2", "É-3")
NEVER_CREATED: Final = "NO-9"
_EVENT_SOURCES: Final = ("/portal", "/Call-centre", "/éa")
_ACTORS: Final[list[Json | None]] = [
    {"id": "op-1", "role": "operator"},
    {"id": "op-1", "role": "operator"},
    {"id": "Op-2", "role": "operator"},
    {"id": "boss", "role": "operator_manager"},
    {"id": "anna", "role": "specialist", "provider": "prov-1"},
    {"id": "ben", "role": "specialist", "provider": "prov-2"},
    {"id": "web", "role": "web"},
    # The same person in another role, and one who has none.
    {"id": "op-1", "role": "specialist", "provider": "prov-1"},
    {"id": "robot"},
    None,
]
_CALLBACK_TIMES: Final = ("2026-07-01T09:00:00Z", "2026-07-02T10:30:00.5+01:00")
_BAD_TIMES: Final = (None, "tomorrow", "2026-07-01T09:00:00", 7)

# How often a key is drawn, against 1 for the others: those whose codes work on each other.
_WEIGHTS: Final = {"timer": 6, "call_me_back": 4, "case": 4, "assign_to_provider": 3, "stop_call_me_back": 3}
_KEYS: Final = [key for key in dict.fromkeys(key for key, _ in FACTS) for _ in range(_WEIGHTS.get(key, 1))]
_CODES: Final = {key: [code for k, code in FACTS if k == key] for key in _KEYS}
# A case is created once by `event_sets`, and now and then again.
_OTHER_CASE_CODES: Final = [c for c in _CODES["case"] if c != "CASE_CREATED"] * 2 + ["CASE_CREATED"]


def _optional(name: str, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Json]:
    return st.one_of(st.just({}), st.builds(lambda value: {name: value}, values))


def _flag(name: str) -> st.SearchStrategy[Json]:
    return _optional(name, st.sampled_from([True, True, False, None]))


def _merged(*parts: st.SearchStrategy[Json]) -> st.SearchStrategy[Json]:
    return st.builds(lambda *dicts: {name: value for d in dicts for name, value in d.items()}, *parts)


_names = st.sampled_from(["debt", "housing", "benefits", None])
_CREATION = _merged(
    _optional("source", st.sampled_from([*SOURCES * 3, None, "FAX"])),
    _optional("category", _names),
    _optional("organisation", st.sampled_from(["org-1", "org-2"])),
    _optional("eligibility_state", st.just("unknown")),
    st.one_of(
        st.just({}),
        _merged(
            st.just({"from_case": "old-1"}),
            _optional("provider", st.sampled_from(["prov-1", None])),
            _optional("provider_assigned_at", st.sampled_from(_CALLBACK_TIMES)),
            _optional("requires_action_by", st.sampled_from(["2_provider", "operator_manager", None])),
        ),
        st.just({"provider": "prov-2", "requires_action_by": "2_provider"}),  # without from_case: not looked at
    ),
)
_CONTEXTS: Final[dict[str, st.SearchStrategy[Json]]] = {
    "case": _merged(_optional("organisation", st.sampled_from(["org-2", None])), _flag("complaint_flag")),
    "assign_to_provider": st.sampled_from([{"provider": "prov-1"}] * 6 + [{"provider": "prov-2"}] * 3 + [{}]),
    "call_me_back": st.sampled_from([*_CALLBACK_TIMES * 5, *_BAD_TIMES]).map(lambda at: {"requires_action_at": at}),
    "change_category": _optional("new_category", _names),
    "means_test": _optional("state", st.sampled_from(["yes", "no", None])),
    "diagnosis": _merged(
        _optional("state", st.sampled_from(["in_scope", "out_of_scope", None])), _optional("category", _names)
    ),
    "complaint": _optional("complaint", st.sampled_from(["c-1", "c-2", None])),
}
_PARAMS: Final[dict[str, st.SearchStrategy[Json]]] = {
    "assign_to_provider": _merged(_flag("is_spor"), _flag("is_manual_ref"), _flag("is_manual")),
    "call_me_back": _flag("priority_callback"),
    "stop_call_me_back": _merged(_flag("cancel"), _flag("complete")),
    "reject_case": _flag("is_conflict"),
    "close_case": _flag("is_debt_referral"),
    "split_case": _flag("internal"),
} | {key: st.sampled_from([{"status": s} for s in [*statuses, "?"]]) for key, statuses in BY_STATUS.items()}
_HARMLESS: Final = _optional("colour", st.just("red"))
_NULLS: Final = st.sampled_from([{}] * 9 + [{name: None} for name in ("code", "notes", "context", "params", "patch")])


@st.composite
def _times(draw: st.DrawFn) -> str:
    """A moment, written with any of several offsets."""
    moment = START + draw(st.sampled_from(_OFFSETS))
    return moment.astimezone(timezone(timedelta(hours=draw(st.sampled_from([0, 0, 1, -5]))))).isoformat()


@st.composite
def _codes_and_data(draw: st.DrawFn, key: str, *, settled: bool) -> Json:
    """The code, its params or neither. `settled`: never a code that depends on the case."""
    if (settled and key in HANG_ON_THE_CASE) or key == "timer" or draw(st.integers(0, 3)):
        codes = {"case": _OTHER_CASE_CODES, "timer": ["TIMER_STARTED", *_CODES["timer"]]}.get(key, _CODES[key])
        code = draw(st.sampled_from([*codes * 4, "NO_SUCH_CODE"]))
        return {"code": code} | ({"context": draw(_CREATION)} if code == "CASE_CREATED" else {})
    return draw(_optional("params", _merged(_PARAMS.get(key, _HARMLESS), st.just({}))))


@st.composite
def _events(draw: st.DrawFn, *, settled: bool) -> Json:
    key = draw(st.sampled_from([*_KEYS, "no_such_event"]))
    data: Json = {"code": "X"} if key == "no_such_event" else draw(_codes_and_data(key, settled=settled))
    if "context" not in data:
        # What is refused without its context has one, all but seldom.
        needed = key in ("call_me_back", "assign_to_provider") and draw(st.integers(0, 7))
        context = _CONTEXTS.get(key, _HARMLESS)
        data |= draw(context.map(lambda given: {"context": given}) if needed else _optional("context", context))
    actors = _ACTORS
    fact = FACTS.get((key, data.get("code", "")))
    if fact is not None and fact.selectable_by and draw(st.integers(0, 7)):
        roles = {*fact.selectable_by, *(["operator_manager"] if "operator" in fact.selectable_by else [])}
        actors = [actor for actor in _ACTORS if actor is not None and actor.get("role") in roles]
    if key == "timer":
        # One operator's timer meets what that operator does more often than many timers would.
        actors = [_ACTORS[0]] * 5 + [actor for actor in actors if actor is not None]
    actor = draw(st.sampled_from(actors))
    # A timer may run already when a case is created.
    time = EARLY.isoformat() if key == "timer" and not draw(st.integers(0, 4)) else draw(_times())
    event: Json = {"type": key, "time": time, "source": draw(st.sampled_from(_EVENT_SOURCES))}
    if key != "timer":
        event["subject"] = draw(st.sampled_from([*CASES * 5, NEVER_CREATED]))
    if actor is not None:
        data["actor"] = actor
    notes = draw(_optional("notes", st.sampled_from(["", "a note"])))
    return event | {"data": draw(_NULLS) | data | notes}


@st.composite
def _again(draw: st.DrawFn, body: Json) -> Json:
    """The same deed at another moment, perhaps by somebody else, elsewhere, with other notes or another context."""
    body, data = dict(body), dict(body["data"])
    if body["type"] != "timer" and draw(st.booleans()):
        body["time"] = draw(_times())
    changed = draw(st.sampled_from(["nothing", "nothing", "notes", "context", "actor"]))
    if changed == "notes":
        data["notes"] = draw(st.sampled_from([None, "", "a note"]))
    elif changed == "context" and body["type"] in _CONTEXTS and data.get("code") != "CASE_CREATED":
        data["context"] = draw(_CONTEXTS[body["type"]])
    elif changed == "actor":
        data["actor"] = draw(st.sampled_from([actor for actor in _ACTORS if actor is not None]))
    return body | {"data": data}


@st.composite
def _placed(draw: st.DrawFn, cases: tuple[str, ...], starts: list[datetime], *, most: int, settled: bool) -> list[Json]:
    """The bodies of up to so many episodes, each with a case of its own or the same."""
    bodies: list[Json] = []
    for _ in range(draw(st.integers(0, most))):
        case = {"subject": draw(st.sampled_from(cases))}
        its = draw(episodes(starts, settled=settled))
        bodies += [body | {"source": "/portal"} | ({} if body["type"] == "timer" else case) for body in its]
    return bodies


@st.composite
def event_sets(draw: st.DrawFn, *, most: int = 25, settled: bool = False, created_first: bool = False) -> list[Json]:
    """Events of few cases and actors, each (source, id) once, in no order.

    `settled`: no code depends on the case. `created_first`: whatever is about a case is timed after its creation.
    """
    size = draw(st.integers(0, most))  # drawn evenly: lists alone are mostly short
    told = draw(_placed(CASES, [START - timedelta(minutes=30), START], most=2, settled=settled))
    size = max(0, size - len(told))
    bodies = told + draw(st.lists(_events(settled=settled), min_size=size, max_size=size))
    if bodies:
        bodies += [draw(_again(body)) for body in draw(st.lists(st.sampled_from(bodies), max_size=4))]
    for case in CASES:
        # Seldom is a case not created at all, and its events wait for ever.
        if draw(st.integers(0, 9)):
            time = EARLY.isoformat() if created_first else draw(_times())
            data: Json = {"code": "CASE_CREATED", "context": draw(_CREATION)}
            if draw(st.booleans()):
                data = {"params": {"status": "created"}, "context": data["context"]}
            actor = draw(st.sampled_from(_ACTORS))
            body = {"type": "case", "subject": case, "time": time, "source": draw(st.sampled_from(_EVENT_SOURCES))}
            bodies.append(body | {"data": data | ({} if actor is None else {"actor": actor})})
    # Ids that sort otherwise than they were made, and as text: "10" before "9".
    ids = draw(st.permutations(range(1, len(bodies) + 1)))
    return [{"specversion": "1.0", "id": str(id_), **body} for id_, body in zip(ids, bodies, strict=True)]


@st.composite
def batches(draw: st.DrawFn, events: list[Json]) -> list[list[Json]]:
    """The events, in the order given, split into batches anywhere."""
    cuts = sorted(draw(st.lists(st.integers(0, len(events)), max_size=6)))
    return [events[a:b] for a, b in zip([0, *cuts], [*cuts, len(events)], strict=True) if a < b]


@st.composite
def deliveries(draw: st.DrawFn, events: list[Json]) -> list[list[Json]]:
    """The events in any order, some of them twice, split into batches anywhere."""
    again = draw(st.lists(st.sampled_from(events), max_size=6)) if events else []
    return draw(batches(draw(st.permutations(events + again))))


# --- what reports of single cases are made of: much of it in little time, so that it meets in every order ---

_MOMENTS: Final = [START + offset for offset in (*_OFFSETS, timedelta(days=3), timedelta(days=5, hours=2))]
_DUE: Final = ("2026-06-30T09:00:00Z", "2026-06-30T08:00:00.5Z", "2026-07-03T17:00:00Z", "2026-07-04T23:30:00Z")
_LONG_BEFORE: Final = (START - timedelta(days=4), START - timedelta(days=3))
_GIVEN_DEADLINES: Final = ("2026-06-30T09:00:00Z", "2026-07-01T10:00:00+01:00", None, "soon", 7)
_CALLING: Final = [
    *[("call_me_back", code) for code in ("CB1", "CB1", "CB2", "PCB")],
    *[("case", code) for code in ("CALL_STARTED", "CALL_STARTED", "CASE_VIEWED", "CASE_ORGANISATION_SET")],
    *[("stop_call_me_back", "CBC"), ("change_category", "CATEGORY_CHANGED"), ("suspend_case", "TERM")],
    *[("suspend_case", "MRNB"), ("alternative_help", "IRKB"), ("timer", "TIMER_STARTED"), ("timer", "TIMER_STARTED")],
]
_PROVIDING: Final = [
    *[("assign_to_provider", code) for code in ("REFSP", "REFSP", "MANREF")],
    *[("accept_case", "SPOP"), ("open_case", "CASE_VIEWED"), ("case", "CASE_VIEWED"), ("close_case", "CLSP")],
    *[("reject_case", code) for code in ("COI", "MIS", "MERI", "DUPL")],
    *[("reopen_case", "REOPEN"), ("split_case", "REF-INT")],
]
_COMPLAINING: Final = [("complaint", code) for code in _CODES["complaint"]]
_DEEDS: Final = [_CALLING, _PROVIDING, _PROVIDING, _COMPLAINING, [*_CALLING, *_PROVIDING, *_COMPLAINING]]
_ABLE: Final[list[Json]] = [
    {"id": "op-1", "role": "operator"},
    {"id": "op-1", "role": "operator"},
    {"id": "Op-2", "role": "operator"},
    {"id": "boss", "role": "operator_manager"},
    {"id": "anna", "role": "specialist", "provider": "prov-1"},
    {"id": "ben", "role": "specialist", "provider": "prov-2"},
    {"id": "web", "role": "web"},
]
_TOLD: Final[dict[str, st.SearchStrategy[Json]]] = {
    "call_me_back": _merged(
        st.sampled_from(_DUE).map(lambda due: {"requires_action_at": due}),
        *[_optional(name, st.sampled_from(_GIVEN_DEADLINES)) for name in ("sla_120", "sla_480", "sla_72h")],
    ),
    "complaint": _merged(
        _optional("complaint", st.sampled_from(["c-1", None])), _optional("owner", st.sampled_from(["olga", "oskar"]))
    ),
    "assign_to_provider": st.sampled_from([{"provider": "prov-1"}, {"provider": "prov-2"}]),
    "change_category": st.just({"new_category": "housing"}),
    "case": st.just({"organisation": "org-2"}),
}


@st.composite
def report_event_sets(draw: st.DrawFn) -> list[Json]:
    """Callbacks, complaints, providers and timers of two cases, each event by somebody who may do it; in no order."""
    bodies = []
    for case in CASES[:2]:
        # Who wrote on a Friday or a Saturday is called later; and a creation may bear a time after what follows it.
        at = draw(st.sampled_from([EARLY, EARLY, START, *_LONG_BEFORE, START + timedelta(hours=20)]))
        data: Json = {"code": "CASE_CREATED", "context": draw(_CREATION.filter(lambda c: c.get("source") != "FAX"))}
        bodies.append({"type": "case", "subject": case, "time": at.isoformat(), "data": data})
    bodies += draw(_placed(CASES[:2], [EARLY, START, START + timedelta(hours=15)], most=3, settled=True))
    deeds = draw(st.sampled_from(_DEEDS))
    for _ in range(draw(st.integers(0, 14))):
        key, code = draw(st.sampled_from(deeds))
        allowed = FACTS[key, code].selectable_by
        managed = (*allowed, "operator_manager") if "operator" in allowed else allowed
        actor = draw(st.sampled_from([a for a in _ABLE if not allowed or a["role"] in managed]))
        body: Json = {"type": key, "time": draw(st.sampled_from(_MOMENTS)).isoformat()}
        if key != "timer":
            body["subject"] = draw(st.sampled_from([CASES[0], CASES[0], CASES[1]]))
        context = draw(_TOLD.get(key, st.just({})))
        bodies.append(body | {"data": {"code": code, "actor": actor, "context": context}})
    ids = draw(st.permutations(range(1, len(bodies) + 1)))
    return [
        {"specversion": "1.0", "id": str(id_), "source": "/portal", **body}
        for id_, body in zip(ids, bodies, strict=True)
    ]
