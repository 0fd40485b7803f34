"""Callbacks worked out by hand from docs/rules.md §6 and §7, with the arithmetic.

Times are London's unless they have an offset. In 2026 the clocks change on 29 March and 25 October; 3 and 6 April (Good
Friday, Easter Monday) are bank holidays.
"""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from support.builders.stories import Row, Worked, at, lines


def _callback(
    law: str,
    source: str,
    due: str,
    story: str = "",
    *rows: Row,
    now: str = "2027-06-01 12:00",
    created: str | None = None,
) -> Worked:
    """A case created at that moment, else at 07:30 on the day of its callback, and given its CB1 half an hour later."""
    begun = at(created or f"{due.partition('T')[0]}T07:30")
    beginning = f"""
        A {begun.isoformat()} web case/CASE_CREATED source={source}
        A {(begun + timedelta(minutes=30)).isoformat()} op-1 call_me_back/CB1 requires_action_at={due}
    """
    return Worked(law, lines(beginning, story), "callbacks", list(rows), now)


CALLBACKS = [
    _callback(
        "a contact within the window, and resolved within 72 hours",
        "WEB",
        "2026-03-02T10:30",  # Monday
        """
        A 2026-03-02T10:45 op-1 case/CALL_STARTED
        A 2026-03-02T10:50 op-1 suspend_case/TERM
        """,
        {
            "reference": "A", "source": "WEB", "organisation": None,
            "window_start": at("2026-03-02 10:30"), "window_end": at("2026-03-02 11:00"),
            "first_contact_at": at("2026-03-02 10:45"), "next_outcome": "CALL_STARTED",
            "call_started_at": at("2026-03-02 10:45"), "resolved_at": at("2026-03-02 10:50"),
            "missed_sla_1": False, "missed_sla_2": False,
        },
    ),
    _callback(
        "a contact before the window is missed too",
        "WEB",
        "2026-03-02T10:30",
        "A 2026-03-02T10:29:59 op-1 case/CALL_STARTED",
        {"first_contact_at": at("2026-03-02 10:29:59"), "missed_sla_1": True},
    ),
    _callback(
        "the window's first moment is within it",
        "PHONE",
        "2026-03-02T10:30",
        "A 2026-03-02T10:30 op-1 case/CALL_STARTED",
        {"missed_sla_1": False},
    ),
    _callback(
        "what was refused is no contact: neither operators nor their managers may select COI or MERI",
        "PHONE",
        "2026-03-02T10:30",
        "A 2026-03-02T11:00 op-1 reject_case/COI\nA 2026-03-02T11:00 boss reject_case/MERI",
        {"first_contact_at": None, "next_outcome": None, "missed_sla_1": True},
    ),
    _callback(
        "a manager's assignment at the window's last moment is a contact in time, and resolves",
        "PHONE",
        "2026-03-02T10:30",
        "A 2026-03-02T11:00 boss assign_to_provider/REFSP provider=prov-1",
        {
            "first_contact_at": at("2026-03-02 11:00"), "next_outcome": "REFSP", "call_started_at": None,
            "resolved_at": at("2026-03-02 11:00"), "missed_sla_1": False, "missed_sla_2": False,
        },
    ),
    _callback(
        "a second after the window is late",
        "WEB",
        "2026-03-02T10:30",
        "A 2026-03-02T11:00:01 op-1 case/CALL_STARTED",
        {"missed_sla_1": True},
    ),
    _callback(
        "nobody has called, and at the window's end nothing is missed yet",
        "WEB",
        "2026-03-02T10:30",
        "",
        {"first_contact_at": None, "next_outcome": None, "resolved_at": None, "missed_sla_1": False},
        now="2026-03-02 11:00",
    ),
    _callback(
        "nobody has called, and a second later it is missed",
        "WEB",
        "2026-03-02T10:30",
        "",
        {"missed_sla_1": True, "missed_sla_2": False},
        now="2026-03-02 11:00:01",
    ),
    # 4,320 minutes: Mon 10:30 to 20:00 570, Tue to Fri 4 x 660 = 2,640 (3,210), Sat 210 (3,420), Mon 660 (4,080),
    # Tue 10 March 240: until 13:00.
    _callback(
        "72 hours are 4,320 working minutes, and their end is in time",
        "WEB",
        "2026-03-02T10:30",
        "A 2026-03-10T13:00 op-1 suspend_case/TERM",
        {"missed_sla_1": True, "missed_sla_2": False},
    ),
    _callback(
        "a second after 72 hours is late",
        "WEB",
        "2026-03-02T10:30",
        "A 2026-03-10T13:00:01 op-1 suspend_case/TERM",
        {"missed_sla_2": True},
    ),
    _callback(
        "not resolved: missed from the end of 72 hours on",
        "WEB",
        "2026-03-02T10:30",
        "",
        {"missed_sla_2": True},
        now="2026-03-10 13:00:01",
    ),
    _callback(
        "a specialist's outcome is a resolution, and neither the first contact nor the next outcome",
        "WEB",
        "2026-03-02T10:30",
        """
        A 2026-03-02T10:40 anna@prov-1 suspend_case/TERM
        A 2026-03-02T11:10 op-1 suspend_case/MRNB
        """,
        {
            "first_contact_at": at("2026-03-02 11:10"), "next_outcome": "MRNB", "resolved_at": at("2026-03-02 10:40"),
            "missed_sla_1": True, "missed_sla_2": False,
        },
    ),
    _callback(
        "a start of a call is a contact, and as such the next outcome",
        "WEB",
        "2026-03-02T10:30",
        """
        A 2026-03-02T10:40 op-1 case/CALL_STARTED
        A 2026-03-02T10:41 op-1 suspend_case/TERM
        """,
        {"first_contact_at": at("2026-03-02 10:40"), "next_outcome": "CALL_STARTED"},
    ),
    _callback(
        "system logs and those below HIGH are no contact, whoever they are by",
        "WEB",
        "2026-03-02T10:30",
        """
        A 2026-03-02T10:31 op-1 case/CASE_VIEWED
        A 2026-03-02T10:32 op-1 means_test/MT_PASSED state=yes
        A 2026-03-02T10:33 op-1 stop_call_me_back/CALLBACK_COMPLETE
        A 2026-03-02T10:34 op-1 suspend_case/MRNB
        """,
        # MRNB is an outcome, and not among the codes that resolve.
        {
            "first_contact_at": at("2026-03-02 10:34"), "next_outcome": "MRNB", "resolved_at": None,
            "missed_sla_1": False, "missed_sla_2": True,
        },
    ),
    # Who wrote or spoke waits since the case was created, whatever was arranged. Friday 18:00 + 120 is Friday 20:00.
    _callback(
        "an SMS is answered by a call within 120 working minutes of its case's creation, whatever was booked",
        "SMS",
        "2026-03-10T10:30",
        """
        A 2026-03-06T18:40 op-1 suspend_case/MRNB
        A 2026-03-06T20:00 op-1 case/CALL_STARTED
        """,
        {
            "window_start": at("2026-03-10 10:30"), "first_contact_at": at("2026-03-06 18:40"),
            "call_started_at": at("2026-03-06 20:00"), "missed_sla_1": False,
        },
        created="2026-03-06T18:00",
    ),
    _callback(
        "an SMS that is called back at the time that was arranged is late all the same",
        "SMS",
        "2026-03-10T10:30",
        """
        A 2026-03-10T10:30 op-1 case/CALL_STARTED
        A 2026-03-10T10:40 op-1 suspend_case/TERM
        """,
        {"first_contact_at": at("2026-03-10 10:30"), "missed_sla_1": True, "missed_sla_2": True},
        created="2026-03-06T18:00",
    ),
    _callback(
        "by the web form, the same call is in time: what was arranged counts",
        "WEB",
        "2026-03-10T10:30",
        """
        A 2026-03-10T10:30 op-1 case/CALL_STARTED
        A 2026-03-10T10:40 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": False, "missed_sla_2": False},
        created="2026-03-06T18:00",
    ),
    _callback(
        "an SMS may be answered before the time arranged, and an outcome is no answer to it",
        "SMS",
        "2026-03-06T19:30",
        """
        A 2026-03-06T18:40 op-1 case/CALL_STARTED
        A 2026-03-06T18:50 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": False, "missed_sla_2": False},
        created="2026-03-06T18:00",
    ),
    _callback(
        "a voicemail on a Friday evening is late on Saturday morning",
        "VOICEMAIL",
        "2026-03-07T09:00",
        "A 2026-03-07T09:00 op-1 case/CALL_STARTED",
        {"missed_sla_1": True},
        created="2026-03-06T18:00",
    ),
    _callback(
        "a voicemail that only an outcome followed was never called back",
        "VOICEMAIL",
        "2026-03-06T19:00",
        "A 2026-03-06T18:40 op-1 suspend_case/TERM",
        {"call_started_at": None, "missed_sla_1": True, "missed_sla_2": False},
        now="2026-03-06 20:00:01",
        created="2026-03-06T18:00",
    ),
    # Friday 18:00 + 480: Fri 120, Sat 210 (330), Mon 150: 11:30.
    _callback(
        "over a weekend, 480 working minutes after Friday 18:00 are Monday 11:30",
        "SMS",
        "2026-03-06T19:00",
        "A 2026-03-09T11:30 op-1 suspend_case/TERM",
        {"missed_sla_1": True, "missed_sla_2": False},
        created="2026-03-06T18:00",
    ),
    _callback(
        "a second after 480 working minutes is late",
        "SMS",
        "2026-03-06T19:00",
        "A 2026-03-09T11:30:01 op-1 suspend_case/TERM",
        {"missed_sla_2": True},
        created="2026-03-06T18:00",
    ),
    # Created on Monday at 07:30: 120 minutes from the opening at 9 are 11:00, 480 are 17:00.
    _callback(
        "who wrote before opening time waits from opening time on",
        "SMS",
        "2026-03-02T16:00",
        """
        A 2026-03-02T11:00 op-1 case/CALL_STARTED
        A 2026-03-02T17:00:01 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": False, "missed_sla_2": True},
    ),
    # Monday 10:30: until 12:30 and 18:30. The second CB1 is of Tuesday, and the case still of Monday.
    Worked(
        "each CB1 of a voicemail counts from the case's creation",
        lines("""
            A 2026-03-02T10:30 web case/CASE_CREATED source=VOICEMAIL
            A 2026-03-02T10:35 op-1 call_me_back/CB1 requires_action_at=2026-03-02T11:00
            A 2026-03-02T12:30 op-1 case/CALL_STARTED
            A 2026-03-02T12:31 op-1 stop_call_me_back/CBC
            A 2026-03-03T09:30 op-1 call_me_back/CB1 requires_action_at=2026-03-03T10:00
            A 2026-03-03T10:00 op-1 case/CALL_STARTED
            A 2026-03-03T10:05 op-1 suspend_case/TERM
        """),
        "callbacks",
        [
            {"window_start": at("2026-03-02 11:00"), "missed_sla_1": False, "missed_sla_2": True},
            {"window_start": at("2026-03-03 10:00"), "missed_sla_1": True, "missed_sla_2": True},
        ],
    ),
    # Told in the order of their times: of two creations the earlier is the case's, and the other changes nothing.
    Worked(
        "of a case created twice the first creation counts",
        lines("""
            A 2026-03-02T10:30 web case/CASE_CREATED source=SMS
            A 2026-03-02T14:00 op-1 case/CASE_CREATED source=PHONE
            A 2026-03-02T14:05 op-1 call_me_back/CB1 requires_action_at=2026-03-02T14:30
            A 2026-03-02T14:30 op-1 case/CALL_STARTED
        """),
        "callbacks",
        [{"source": "SMS", "missed_sla_1": True}],
    ),
    # Thu 19:00 + 120: Thu 60, Good Friday closed, Sat 60: 10:00.
    # + 480: Thu 60, Sat 210 (270), Sunday and Easter Monday closed, Tue 210: 12:30.
    _callback(
        "over Easter, both deadlines met in their last moment",
        "VOICEMAIL",
        "2026-04-03T19:00",
        """
        A 2026-04-04T10:00 op-1 case/CALL_STARTED
        A 2026-04-07T12:30 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": False, "missed_sla_2": False},
        created="2026-04-02T19:00",
    ),
    _callback(
        "over Easter, both deadlines missed by a second",
        "VOICEMAIL",
        "2026-04-03T19:00",
        """
        A 2026-04-04T10:00:01 op-1 case/CALL_STARTED
        A 2026-04-07T12:30:01 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": True, "missed_sla_2": True},
        created="2026-04-02T19:00",
    ),
    # Sat 12:00 + 120: Sat 30, Mon 90: 10:30, which is 09:30 in UTC. + 480: Sat 30, Mon 450: 16:30, 15:30 in UTC.
    _callback(
        "when summer time begins, the deadlines are by the new clock",
        "SMS",
        "2026-03-29T12:00",
        """
        A 2026-03-30T09:30:00+00:00 op-1 case/CALL_STARTED
        A 2026-03-30T15:30:00+00:00 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": False, "missed_sla_2": False},
        created="2026-03-28T12:00",
    ),
    _callback(
        "when summer time begins, a second later is late",
        "SMS",
        "2026-03-29T12:00",
        """
        A 2026-03-30T09:30:01+00:00 op-1 case/CALL_STARTED
        A 2026-03-30T15:30:01+00:00 op-1 suspend_case/TERM
        """,
        {"missed_sla_1": True, "missed_sla_2": True},
        created="2026-03-28T12:00",
    ),
    # Sat 12:00 (11:00 in UTC) + 120: Sat 30, Mon 90: 10:30 in UTC. + 480: Mon 16:30 in UTC.
    _callback(
        "when summer time ends, the deadlines are by the new clock",
        "SMS",
        "2026-10-24T13:00",
        """
        A 2026-10-26T10:30:00+00:00 op-1 case/CALL_STARTED
        A 2026-10-26T16:30:01+00:00 op-1 suspend_case/TERM
        """,
        {"window_start": at("2026-10-24T12:00+00:00"), "missed_sla_1": False, "missed_sla_2": True},
        created="2026-10-24T12:00",
    ),
    Worked(
        "deadlines in the event's context stand before computed ones",
        lines("""
            A 2026-03-02T10:30 web case/CASE_CREATED source=SMS
            A 2026-03-02T10:35 op-1 call_me_back/CB1 requires_action_at=2026-03-02T10:45 \
sla_120=2026-03-02T10:40 sla_480=2026-03-03T10:30
            A 2026-03-02T10:41 op-1 case/CALL_STARTED
            A 2026-03-03T10:30 op-1 suspend_case/TERM
        """),
        # Computed they would be Mon 12:30 and Mon 18:30, and the other way about.
        "callbacks",
        [{"missed_sla_1": True, "missed_sla_2": False}],
    ),
    Worked(
        "suppressed logs are no rows and no contacts",
        lines("""
            A 2026-03-02T07:30 web case/CASE_CREATED source=WEB
            A 2026-03-02T08:00 op-1 call_me_back/CB1 requires_action_at=2026-03-02T10:30
            A 2026-03-02T08:05 op-1 call_me_back/CB1 requires_action_at=2026-03-02T10:30
            A 2026-03-02T10:40 op-1 case/CALL_STARTED
            A 2026-03-02T10:41 op-1 case/CALL_STARTED
        """),
        "callbacks",
        [{"window_start": at("2026-03-02 10:30"), "first_contact_at": at("2026-03-02 10:40"), "missed_sla_1": False}],
    ),
    Worked(
        "a second cycle has a row of its own, and what follows it follows the first too",
        lines("""
            A 2026-03-02T07:30 web case/CASE_CREATED source=WEB organisation=org-1
            A 2026-03-02T08:00 op-1 call_me_back/CB1 requires_action_at=2026-03-02T10:30
            A 2026-03-02T10:35 op-1 stop_call_me_back/CBC
            A 2026-03-03T08:00 op-1 case/CASE_ORGANISATION_SET organisation=org-2
            A 2026-03-03T08:01 op-1 call_me_back/CB1 requires_action_at=2026-03-03T10:30
            A 2026-03-03T10:31 op-1 case/CALL_STARTED
            A 2026-03-03T10:32 op-1 call_me_back/PCB requires_action_at=2026-03-03T15:00
        """),
        "callbacks",
        [
            {
                "organisation": "org-1", "window_start": at("2026-03-02 10:30"),
                "first_contact_at": at("2026-03-02 10:35"), "next_outcome": "CBC",
                "call_started_at": at("2026-03-03 10:31"), "resolved_at": at("2026-03-03 10:32"),
                "missed_sla_1": False, "missed_sla_2": False,
            },
            {
                "organisation": "org-2", "window_start": at("2026-03-03 10:30"),
                "first_contact_at": at("2026-03-03 10:31"), "next_outcome": "CALL_STARTED",
                "resolved_at": at("2026-03-03 10:32"), "missed_sla_1": False, "missed_sla_2": False,
            },
        ],
    ),
    Worked(
        "of three callbacks one is missed: two in three are within",
        lines(*[
            f"""
            {case} 2026-03-02T07:30 web case/CASE_CREATED source=WEB
            {case} 2026-03-02T08:00 op-1 call_me_back/CB1 requires_action_at=2026-03-02T10:30
            {case} 2026-03-02T{called} op-1 case/CALL_STARTED
            """
            for case, called in (("A", "10:30"), ("B", "10:59"), ("C", "11:01"))
        ]),
        "callback_sla",
        [{"day": date(2026, 3, 2), "source": "WEB", "callbacks": 3, "missed_sla_1": 1, "missed_sla_2": 3,
          "within_sla_1_percent": pytest.approx(200 / 3)}],
    ),
    Worked(
        "attempts count on until the callback is reset, and the slot is by London's clock",
        lines("""
            A 2026-07-01T07:30 web case/CASE_CREATED source=VOICEMAIL
            A 2026-07-01T09:00 op-1 call_me_back/CB1 requires_action_at=2026-07-01T10:30:00+00:00
            A 2026-07-02T09:00 op-1 call_me_back/CB2 requires_action_at=2026-07-02T10:30
            A 2026-07-03T09:00 op-1 call_me_back/PCB requires_action_at=2026-07-03T09:05
            A 2026-07-03T09:20 op-1 assign_to_provider/REFSP provider=prov-1
            A 2026-07-03T09:30 op-1 call_me_back/CB1 requires_action_at=2026-07-05T23:30:00+00:00
            A 2026-07-06T00:35 op-1 stop_call_me_back/CALLBACK_COMPLETE
            A 2026-07-06T09:00 op-1 call_me_back/PCB requires_action_at=2026-07-06T09:30
        """),
        "callback_progression",
        [
            {"code": "CB1", "attempt": 1, "slot": "11:30", "source": "VOICEMAIL", "logged_at": at("2026-07-01 09:00")},
            {"code": "CB2", "attempt": 2, "slot": "10:30", "callback_at": at("2026-07-02 10:30")},
            {"code": "PCB", "attempt": 3, "slot": "09:05"},
            {"code": "CB1", "attempt": 1, "slot": "00:30"},
            {"code": "PCB", "attempt": 1, "slot": "09:30"},
        ],
    ),
    Worked(
        "the day of a callback is the local day for which it is booked",
        lines("""
            A 2026-07-01T07:30 web case/CASE_CREATED
            A 2026-07-03T09:30 op-1 call_me_back/CB1 requires_action_at=2026-07-05T23:30:00+00:00
        """),
        "callback_sla",
        [{"day": date(2026, 7, 6), "source": "PHONE", "callbacks": 1}],
        days=(date(2026, 7, 6), date(2026, 7, 6)),
    ),
]  # fmt: skip
