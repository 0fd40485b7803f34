"""Complaints worked out by hand from docs/rules.md §6 and §7, with the arithmetic.

Times are London's unless they have an offset. In 2026 the clocks change on 29 March and 25 October; 3 and 6 April (Good
Friday, Easter Monday) are bank holidays.
"""

from __future__ import annotations

from support.builders.stories import Row, Worked, at, lines


def _complaint(law: str, story: str, *rows: Row, now: str = "2027-06-01 12:00") -> Worked:
    return Worked(law, lines("A 2026-01-05T09:00 op-1 case/CASE_CREATED", story), "complaints", list(rows), now)


COMPLAINTS = [
    # Friday 6 March 16:12. One working day: Sat 7. Fifteen: Sat 7 (1), 9 to 14 (7), 16 to 21 (13), Mon 23 (14),
    # Tue 24 (15), at 16:12.
    _complaint(
        "the letter and the closing in their last moment",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED complaint=c-1
        A 2026-03-06T16:13 op-1 complaint/OWNER_SET complaint=c-1 owner=olga
        A 2026-03-07T16:12 op-1 complaint/HOLDING_LETTER_SENT complaint=c-1
        A 2026-03-20T10:00 op-1 complaint/OWNER_SET complaint=c-1 owner=oskar
        A 2026-03-24T16:12 op-1 complaint/FULL_RESPONSE_SENT complaint=c-1
        A 2026-03-24T16:12 op-1 complaint/COMPLAINT_CLOSED complaint=c-1
        """,
        {
            "reference": "A", "complaint": "c-1", "owner": "oskar", "created_at": at("2026-03-06 16:12"),
            "holding_letter_at": at("2026-03-07 16:12"), "full_response_at": at("2026-03-24 16:12"),
            "closed_at": at("2026-03-24 16:12"), "voided": False, "within_holding_sla": True, "within_sla": True,
        },
    ),
    _complaint(
        "the letter and the closing a second late",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED
        A 2026-03-07T16:12:01 op-1 complaint/HOLDING_LETTER_SENT
        A 2026-03-24T16:12:01 op-1 complaint/COMPLAINT_CLOSED
        """,
        {"complaint": None, "owner": None, "voided": False, "within_holding_sla": False, "within_sla": False},
    ),
    _complaint(
        "from its creation to its closing: when the full response was sent does not matter",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED complaint=c-1
        A 2026-03-06T16:13 op-1 complaint/COMPLAINT_CREATED complaint=c-2
        A 2026-03-06T16:14 op-1 complaint/COMPLAINT_CREATED complaint=c-3
        A 2026-03-09T10:00 op-1 complaint/FULL_RESPONSE_SENT complaint=c-1
        A 2026-03-09T10:00 op-1 complaint/FULL_RESPONSE_SENT complaint=c-3
        A 2026-03-10T10:00 op-1 complaint/COMPLAINT_CLOSED complaint=c-2
        A 2026-03-30T10:00 op-1 complaint/FULL_RESPONSE_SENT complaint=c-2
        A 2026-03-30T10:00 op-1 complaint/COMPLAINT_CLOSED complaint=c-1
        """,
        {"complaint": "c-1", "full_response_at": at("2026-03-09 10:00"), "within_sla": False},
        {"complaint": "c-2", "full_response_at": at("2026-03-30 10:00"), "within_sla": True},
        {"complaint": "c-3", "closed_at": None, "within_sla": False},
    ),
    # On a Sunday: Monday is the first working day.
    _complaint(
        "a complaint of a Sunday is owed a letter on Monday, and Saturday's on Monday too",
        """
        A 2026-03-07T10:00 op-1 complaint/COMPLAINT_CREATED complaint=c-6
        A 2026-03-08T10:00 op-1 complaint/COMPLAINT_CREATED complaint=c-7
        A 2026-03-09T10:00 op-1 complaint/HOLDING_LETTER_SENT complaint=c-6
        A 2026-03-09T10:00:01 op-1 complaint/HOLDING_LETTER_SENT complaint=c-7
        """,
        {"complaint": "c-6", "within_holding_sla": True},
        {"complaint": "c-7", "within_holding_sla": False},
    ),
    # Thursday 26 March 09:00, winter time. Fri 27 (1), Sat 28 (2), 30 March to 2 April (6), Good Friday none,
    # Sat 4 (7), Easter Monday none, 7 to 11 April (12), 13 to 15 (15): Wednesday 15 April 09:00, which is 08:00 in
    # UTC.
    _complaint(
        "over Easter and the beginning of summer time the time of day is kept",
        """
        A 2026-03-26T09:00 op-1 complaint/COMPLAINT_CREATED
        A 2026-03-27T09:00 op-1 complaint/HOLDING_LETTER_SENT
        A 2026-04-15T08:00:00+00:00 op-1 complaint/COMPLAINT_CLOSED
        """,
        {"within_holding_sla": True, "within_sla": True},
    ),
    _complaint(
        "over Easter and the beginning of summer time, a second late",
        """
        A 2026-03-26T09:00 op-1 complaint/COMPLAINT_CREATED
        A 2026-04-15T08:00:01+00:00 op-1 complaint/COMPLAINT_CLOSED
        """,
        {"within_holding_sla": False, "within_sla": False},
    ),
    # Saturday 24 October 10:00 in summer time: Monday 10:00 in winter time, 49 hours later.
    _complaint(
        "when summer time ends the time of day is kept",
        """
        A 2026-10-24T10:00 op-1 complaint/COMPLAINT_CREATED
        A 2026-10-26T10:00:00+00:00 op-1 complaint/HOLDING_LETTER_SENT
        """,
        {"created_at": at("2026-10-24T09:00+00:00"), "within_holding_sla": True},
    ),
    # Friday 24 December 2021: Christmas Day is a Saturday, Boxing Day a Sunday, Monday and Tuesday stand in for them.
    _complaint(
        "over Christmas one working day is five days",
        """
        A 2021-12-24T15:00 op-1 complaint/COMPLAINT_CREATED
        A 2021-12-29T15:00 op-1 complaint/HOLDING_LETTER_SENT
        """,
        {"within_holding_sla": True},
    ),
    _complaint(
        "while there is time for a letter and for the closing, it is within",
        "A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED",
        {"holding_letter_at": None, "within_holding_sla": True, "within_sla": True},
        now="2026-03-07 16:12",
    ),
    _complaint(
        "when the time for a letter is over, it is not",
        "A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED",
        {"within_holding_sla": False, "within_sla": True},
        now="2026-03-24 16:12",
    ),
    _complaint(
        "an open complaint is within its time up to the last moment of it",
        "A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED",
        {"closed_at": None, "within_holding_sla": False, "within_sla": False},
        now="2026-03-24 16:12:01",
    ),
    _complaint(
        "to close a complaint sends no letter; one that is void is owed none, and is not late with it",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED complaint=c-1
        A 2026-03-06T16:20 op-1 complaint/COMPLAINT_CLOSED complaint=c-1
        A 2026-03-06T17:12 op-1 complaint/COMPLAINT_CREATED complaint=c-2
        A 2026-03-06T17:20 op-1 complaint/COMPLAINT_VOID complaint=c-2
        A 2026-03-06T18:12 op-1 complaint/COMPLAINT_CREATED complaint=c-3
        A 2026-03-06T18:13 op-1 complaint/HOLDING_LETTER_SENT complaint=c-3
        A 2026-04-30T17:20 op-1 complaint/COMPLAINT_VOID complaint=c-3
        """,
        {"closed_at": at("2026-03-06 16:20"), "voided": False, "within_holding_sla": False, "within_sla": True},
        {"closed_at": at("2026-03-06 17:20"), "voided": True, "within_holding_sla": None, "within_sla": None},
        {"holding_letter_at": at("2026-03-06 18:13"), "voided": True, "within_holding_sla": None, "within_sla": None},
    ),
    _complaint(
        "a complaint that is opened again is neither closed nor void, and its time runs from its creation",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED complaint=c-1 owner=olga
        A 2026-03-06T16:15 op-1 complaint/HOLDING_LETTER_SENT complaint=c-1
        A 2026-03-06T16:18 op-1 complaint/FULL_RESPONSE_SENT complaint=c-1
        A 2026-03-06T16:20 op-1 complaint/COMPLAINT_VOID complaint=c-1
        A 2026-04-06T16:20 op-1 complaint/COMPLAINT_REOPENED complaint=c-1
        A 2026-04-06T16:21 op-1 complaint/HOLDING_LETTER_SENT complaint=c-1
        A 2026-04-07T16:20 op-1 complaint/FULL_RESPONSE_SENT complaint=c-1
        """,
        {
            "created_at": at("2026-03-06 16:12"), "owner": "olga", "holding_letter_at": at("2026-03-06 16:15"),
            "full_response_at": at("2026-03-06 16:18"), "closed_at": None, "voided": False, "within_holding_sla": True,
            "within_sla": False,
        },
    ),
    _complaint(
        "closed in time, opened again and closed late: late",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED
        A 2026-03-09T10:00 op-1 complaint/COMPLAINT_CLOSED
        A 2026-03-10T10:00 op-1 complaint/COMPLAINT_REOPENED
        A 2026-03-30T10:00 op-1 complaint/COMPLAINT_CLOSED
        """,
        {"created_at": at("2026-03-06 16:12"), "closed_at": at("2026-03-30 10:00"), "within_sla": False},
    ),
    _complaint(
        "the same name again is the same complaint; another name is another",
        """
        A 2026-03-06T16:12 op-1 complaint/COMPLAINT_CREATED
        A 2026-03-09T10:00 op-1 complaint/COMPLAINT_CLOSED
        A 2026-03-10T10:00 op-1 complaint/COMPLAINT_CREATED
        A 2026-03-10T10:01 op-1 complaint/COMPLAINT_CREATED complaint=c-2
        A 2026-03-11T10:00 op-1 complaint/COMPLAINT_VOID complaint=c-2
        """,
        {"complaint": None, "created_at": at("2026-03-06 16:12"), "closed_at": None, "voided": False},
        {"complaint": "c-2", "closed_at": at("2026-03-11 10:00"), "voided": True},
    ),
]  # fmt: skip
