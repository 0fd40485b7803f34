"""What goes on at a call centre, a few deeds at a time: what repeats, what only looks so, and who may do it.

Events drawn one by one seldom come to a second assignment of one day or to a complaint that is reopened. Here such
episodes are written down, a deed a line, and drawn with their alternatives, at moments close enough to meet.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final

from hypothesis import strategies as st

Json = dict[str, Any]

# Who, what (key/code, or key/- where the class decides, with +params), and what the context has; `notes` is no part of
# it. `|` stands between alternatives, `~` for a member that is not there.
_TOLD: Final = """
    op|boss assign_to_provider/REFSP|assign_to_provider/- provider=prov-1
    op|boss assign_to_provider/REFSP provider=prov-1|prov-2 notes=~|null|to-2
    op assign_to_provider/REFSP|assign_to_provider/MANALC provider=prov-1|prov-2

    op assign_to_provider/REFSP provider=prov-1
    anna case/CASE_VIEWED|case/-+status:viewed|reject_case/MERI|close_case/CLSP|close_case/-+is_debt_referral
    op assign_to_provider/REFSP provider=prov-1|prov-2
    anna open_case/CASE_VIEWED|open_case/-
    op assign_to_provider/REFSP provider=prov-1

    op|boss assign_to_provider/MANREF|assign_to_provider/-+is_manual_ref provider=prov-1
    op|boss open_case/CASE_VIEWED
    anna|ben open_case/CASE_VIEWED|open_case/-
    anna|op open_case/CASE_VIEWED
    anna accept_case/SPOP|accept_case/-
    anna accept_case/SPOP
    anna close_case/CLSP|close_case/DREFER
    anna close_case/CLSP|close_case/DREFER
    anna reopen_case/REOPEN notes=~|again
    anna reopen_case/REOPEN

    anna accept_case/SPOP|reject_case/MERI|reject_case/DUPL|reject_case/MIS-OOS|close_case/CLSP|reopen_case/REOPEN
    op assign_to_provider/SPOR|assign_to_provider/-+is_spor provider=prov-1
    anna reject_case/COI|reject_case/MIS|reject_case/-+is_conflict
    anna accept_case/SPOP|reject_case/CLOT|reject_case/MIS-MEANS|close_case/DREFER|reopen_case/REOPEN
    anna|op reject_case/MIS|case/CASE_VIEWED|reject_case/-+is_conflict

    web|op|op call_me_back/CB1|call_me_back/- requires_action_at=DUE
    web|op|op call_me_back/CB1|call_me_back/-|call_me_back/- requires_action_at=DUE
    op|op|boss|web call_me_back/CB2|call_me_back/-|call_me_back/-+priority_callback requires_action_at=DUE
    op|boss call_me_back/CB2|call_me_back/PCB|call_me_back/- requires_action_at=DUE notes=~|null|soon

    op|op|web call_me_back/CB1|call_me_back/- requires_action_at=DUE
    op|boss case/CALL_STARTED
    op|boss stop_call_me_back/CALLBACK_COMPLETE|stop_call_me_back/CBC|stop_call_me_back/-+complete
    op|boss call_me_back/CB1|call_me_back/- requires_action_at=DUE
    op|boss case/CALL_STARTED|case/-+status:call_started
    op|boss stop_call_me_back/CBC|stop_call_me_back/-+cancel|alternative_help/COSPF
    op call_me_back/CB1 requires_action_at=DUE

    web|op call_me_back/CB1 requires_action_at=DUE sla_120=~|DUE
    op case/CALL_STARTED
    op suspend_case/MRNB|suspend_case/COPE
    op call_me_back/CB1 requires_action_at=DUE
    op|boss suspend_case/TERM|suspend_case/IRCB

    op complaint/COMPLAINT_CREATED complaint=c-1|c-2|~|null
    op complaint/COMPLAINT_CREATED|complaint/COMPLAINT_REOPENED complaint=c-1|c-2|~
    boss|op complaint/HOLDING_LETTER_SENT|complaint/FULL_RESPONSE_SENT complaint=c-1|~
    op complaint/COMPLAINT_CLOSED|complaint/COMPLAINT_VOID complaint=c-1|~
    op complaint/COMPLAINT_REOPENED|complaint/OWNER_SET complaint=c-1|~ owner=olga|oskar
    op|boss complaint/FULL_RESPONSE_SENT|complaint/HOLDING_LETTER_SENT complaint=c-1|~
    op complaint/COMPLAINT_CLOSED|complaint/COMPLAINT_VOID complaint=c-1|c-2|~

    op case/COMPLAINT_FLAG_TOGGLED|case/-+status:complaint_flag_toggled complaint_flag=true|false|null|~
    op complaint/COMPLAINT_CREATED|complaint/COMPLAINT_VOID
    op case/COMPLAINT_FLAG_TOGGLED|case/-+status:complaint_flag_toggled complaint_flag=true|false|null|~

    op diagnosis/DIAGNOSIS_CREATED|diagnosis/-+status:created state=in_scope|null|~ category=family|debt|null|~
    op|boss alternative_help/- notes=~|null|gone
    op change_category/CATEGORY_CHANGED|change_category/- new_category=education|housing|benefits|null
    op|anna|boss alternative_help/-|alternative_help/SPFM
    op diagnosis/DIAGNOSIS_DELETED|diagnosis/INCOMPLETE_DIAGNOSIS_DELETED|diagnosis/-+status:deleted state=~|in_scope

    op timer/TIMER_STARTED
    op open_case/CASE_VIEWED|case/CASE_VIEWED|case/CASE_CREATED
    op case/CASE_VIEWED|case/-+status:viewed
    op suspend_case/TERM|decline_help/DECL
    op timer/TIMER_STARTED
    op suspend_case/TERM|decline_help/DECL notes=~|null|twice
    op|boss timer/TIMER_STARTED
    op|boss suspend_case/TERM|timer/TIMER_CANCELLED
"""
_WHO: Final[dict[str, Json]] = {
    "op": {"id": "op-1", "role": "operator"},
    "boss": {"id": "boss", "role": "operator_manager"},
    "anna": {"id": "anna", "role": "specialist", "provider": "prov-1"},
    "ben": {"id": "ben", "role": "specialist", "provider": "prov-2"},
    "web": {"id": "web", "role": "web"},
}
_VALUES: Final = {"null": None, "true": True, "false": False}
_DUE: Final = ("2026-06-30T09:00:00Z", "2026-07-01T10:00:00+01:00", "2026-07-03T17:00:00Z")
HANG_ON_THE_CASE: Final = ("call_me_back", "stop_call_me_back", "alternative_help")
"""Keys whose code, where it is not given, depends on the case."""
# Mostly within a day of the moments from which episodes begin, now and then over local midnight.
_GAPS: Final = [timedelta(seconds=s) for s in (0, 1, 60, 61.25, 1800, 3600, 7200)] + [timedelta(hours=15)]
_EPISODES: Final = [part.strip().splitlines() for part in _TOLD.split("\n\n")]
_DRAWN: Final = [
    its for its in _EPISODES for _ in range(2 if any(key in its[0] for key in ("call_me_back", "diagnosis")) else 1)
]
"""Whose codes depend on what came before are drawn more often."""


@st.composite
def episodes(draw: st.DrawFn, starts: list[datetime], *, settled: bool) -> list[Json]:
    """An episode's events, in order, without id, source and subject: the body of each of them, timers' too.

    `settled`: no code depends on the case. A part of an episode is drawn as often as all of it.
    """
    lines = draw(st.sampled_from(_DRAWN))
    first = draw(st.integers(0, len(lines) - 1)) if draw(st.booleans()) else 0
    time, bodies = draw(st.sampled_from(starts)), []
    for line in lines[first:]:
        bodies.append(draw(_deeds(line, settled=settled)) | {"time": time.isoformat()})
        time += draw(st.sampled_from(_GAPS))
    return bodies


@st.composite
def _deeds(draw: st.DrawFn, line: str, *, settled: bool) -> Json:
    who, what, *members = line.split()
    if settled:
        given = [one for one in what.split("|") if not one.startswith(tuple(f"{k}/-" for k in HANG_ON_THE_CASE))]
        what = "|".join(given or [f"{what.split('/')[0]}/SPFN"])
    key, _, named = draw(st.sampled_from(what.split("|"))).partition("/")
    code, _, flag = named.partition("+")
    context: Json = {}
    for member in members:
        name, _, alternatives = member.partition("=")
        value = draw(st.sampled_from(alternatives.split("|")))
        if value != "~":
            context[name] = draw(st.sampled_from(_DUE)) if value == "DUE" else _VALUES.get(value, value)
    data: Json = {"actor": _WHO[draw(st.sampled_from(who.split("|")))], "context": context}
    if "notes" in context:
        data["notes"] = context.pop("notes")
    if code != "-":
        data["code"] = code
    elif flag:
        name, _, status = flag.partition(":")
        data["params"] = {name: status or True}
    return {"type": key, "data": data}
