"""All cases worked out by hand; here those that count and sum up, with the arithmetic."""

from __future__ import annotations

from datetime import date

import pytest

from support.builders.stories import Worked, at, lines
from support.builders.worked_callbacks import CALLBACKS
from support.builders.worked_complaints import COMPLAINTS
from support.builders.worked_providers import PROVIDERS

_DAY = """
    A 2026-03-31T23:30:00+00:00 web case/CASE_CREATED source=WEB
    - 2026-04-01T09:00 op-1 timer/TIMER_STARTED
    A 2026-04-01T09:00 op-1 case/CASE_VIEWED
    A 2026-04-01T09:05 op-1 change_category/CATEGORY_CHANGED new_category=debt
    A 2026-04-01T09:10:00.001 op-1 suspend_case/TERM
    - 2026-04-01T09:20 op-1 timer/TIMER_STARTED
    A 2026-04-01T09:21 op-1 suspend_case/TERM
    - 2026-04-01T09:30 op-1 timer/TIMER_STARTED
    B 2026-04-01T09:31 op-1 case/CASE_CREATED category=debt organisation=org-1
    A 2026-04-01T09:31:30 op-1 case/CASE_VIEWED
    B 2026-04-01T09:32 op-1 assign_to_provider/MANREF provider=prov-1
    - 2026-04-01T09:40 op-1 timer/TIMER_STARTED
    B 2026-04-01T09:41 op-1 assign_to_provider/REFSP provider=prov-2
    - 2026-04-01T09:50 op-1 timer/TIMER_STARTED
    - 2026-04-01T09:55 op-1 timer/TIMER_CANCELLED
    B 2026-04-01T10:00 ben@prov-2 accept_case/SPOP
    B 2026-04-01T10:10 boss alternative_help/IRKB
    B 2026-04-01T10:11 op-2 alternative_help/IRKB
    B 2026-04-01T10:11 web alternative_help/COSPF
    C 2026-04-01T10:12 web case/CASE_CREATED source=WEB eligibility_state=unknown category=debt
"""

_CHANGING = """
    A 2026-06-30T09:00 op-1 case/CASE_CREATED organisation=org-1
    B 2026-06-30T09:00 op-1 case/CASE_CREATED organisation=org-1 category=debt
    A 2026-06-30T09:30 op-1 suspend_case/TERM
    B 2026-06-30T09:30 op-1 suspend_case/TERM
    A 2026-06-30T10:00 op-1 diagnosis/DIAGNOSIS_CREATED category=debt
    C 2026-07-01T00:30 op-1 case/CASE_CREATED category=education
    A 2026-07-02T09:00 op-1 change_category/CATEGORY_CHANGED new_category=housing
    A 2026-07-02T09:00 op-1 case/CASE_ORGANISATION_SET organisation=org-2
    A 2026-07-03T09:00 op-1 suspend_case/ABND
    C 2026-07-03T09:00 op-1 change_category/CATEGORY_CHANGED new_category=debt
"""

COUNTS = [
    # Four timers stopped: 600.001 s, 60 s (by a TERM that is suppressed), 120 s (A was only looked at), 60 s.
    # In whole seconds 601 + 60 + 120 + 60 = 841, of cases A and B.
    Worked(
        "each timer is rounded up, a suppressed log stops one too, and a cancelled one does not count",
        lines(_DAY),
        "handling_time",
        [
            {"day": date(2026, 4, 1), "operator": "op-1", "timers": 4, "seconds": 841, "mean_seconds": 210.25,
             "cases": 2},
        ],
    ),
    # op-1: B created; TERM, MANREF, REFSP (the second TERM is suppressed). op-2's IRKB says what the manager's said
    # before, and the one of the web form, which may not select it, is refused.
    Worked(
        "suppressed logs and other people's are not an operator's volume",
        lines(_DAY),
        "operator_volume",
        [
            {"day": date(2026, 4, 1), "operator": "boss", "cases_created": 0, "outcomes": 1, "assignments": 0},
            {"day": date(2026, 4, 1), "operator": "op-1", "cases_created": 1, "outcomes": 3, "assignments": 2},
        ],
    ),
    # A was created at 00:30 on 1 April, London's time, and was no matter of debt yet.
    Worked(
        "days are local, and a case came in as what it is known to be now",
        lines(_DAY),
        "case_volume",
        [
            {"day": date(2026, 4, 1), "source": "PHONE", "organisation": "org-1", "category": "debt", "cases": 1,
             "web_callback_only": 0},
            {"day": date(2026, 4, 1), "source": "WEB", "organisation": None, "category": "debt", "cases": 2,
             "web_callback_only": 1},
        ],
    ),
    Worked(
        "what a case became later moves it, but for its organisation, which is that of its creation",
        lines(_CHANGING),
        "case_volume",
        [
            {"day": date(2026, 6, 30), "source": "PHONE", "organisation": "org-1", "category": "debt", "cases": 1},
            {"day": date(2026, 6, 30), "source": "PHONE", "organisation": "org-1", "category": "housing", "cases": 1},
            {"day": date(2026, 7, 1), "source": "PHONE", "organisation": None, "category": "debt", "cases": 1},
        ],
    ),
    Worked(
        "only who fills in the web form itself, and has no eligibility yet, asks for a callback and no more",
        lines("""
            A 2026-04-01T09:00 web case/CASE_CREATED source=WEB
            B 2026-04-01T09:00 op-1 case/CASE_CREATED source=WEB
            C 2026-04-01T09:00 web case/CASE_CREATED source=PHONE
            D 2026-04-01T09:00 web case/CASE_CREATED source=WEB eligibility_state=unknown
        """),
        "case_volume",
        [
            {"source": "PHONE", "cases": 1, "web_callback_only": 0},
            {"source": "WEB", "cases": 3, "web_callback_only": 1},
        ],
    ),
    # Contacts: TERM (A), MANREF, REFSP and IRKB (B). SPOP stops no timer, and of C there are none.
    Worked(
        "cases without a contact count, too, in the month of their creation",
        lines(_DAY),
        "contacts_per_case",
        [{"month": "2026-04", "category": "debt", "cases": 3, "contacts": 4,
          "contacts_per_case": pytest.approx(4 / 3)}],
    ),
    # Of June: A with TERM and ABND, whatever it was then, and B with TERM. Of July: C with none.
    Worked(
        "a case's contacts move with its category, also those that came before",
        lines(_CHANGING),
        "contacts_per_case",
        [
            {"month": "2026-06", "category": "debt", "cases": 1, "contacts": 1, "contacts_per_case": 1},
            {"month": "2026-06", "category": "housing", "cases": 1, "contacts": 2, "contacts_per_case": 2},
            {"month": "2026-07", "category": "debt", "cases": 1, "contacts": 0, "contacts_per_case": 0},
        ],
    ),
    Worked(
        "MANREF is no allocation",
        lines(_DAY),
        "provider_allocation",
        [{"day": date(2026, 4, 1), "category": "debt", "provider": "prov-2", "assigned": 1,
          "assigned_out_of_hours": 0}],
    ),
    # Thursday 2 April until 20:00; Good Friday and Easter Monday nobody; Saturday until 12:30.
    Worked(
        "who gives a case away while no operators work, does so out of hours; the category is that of the moment",
        lines("""
            A 2026-04-02T09:00 op-1 case/CASE_CREATED
            A 2026-04-02T09:00 op-1 assign_to_provider/REFSP provider=prov-1
            A 2026-04-02T20:00 op-1 assign_to_provider/MANALC provider=prov-1
            A 2026-04-02T20:01 op-1 assign_to_provider/MANREF provider=prov-1
            A 2026-04-02T20:02 op-1 change_category/CATEGORY_CHANGED new_category=debt
            A 2026-04-02T20:03 op-1 assign_to_provider/SPOR provider=prov-1
            A 2026-04-03T12:00 op-1 assign_to_provider/REFSP provider=prov-2
            A 2026-04-04T12:29:59 op-1 assign_to_provider/MANALC provider=prov-2
            A 2026-04-04T12:30 op-1 assign_to_provider/REFSP provider=prov-2
            A 2026-04-06T12:00 op-1 assign_to_provider/REFSP provider=prov-2
            A 2026-04-07T08:59:59 op-1 assign_to_provider/REFSP provider=prov-2
            A 2026-04-07T09:00 op-1 assign_to_provider/SPOR provider=prov-2
        """),
        "provider_allocation",
        [
            {"day": date(2026, 4, 2), "category": "debt", "provider": "prov-1", "assigned": 1,
             "assigned_out_of_hours": 1},
            {"day": date(2026, 4, 2), "category": None, "provider": "prov-1", "assigned": 2,
             "assigned_out_of_hours": 1},
            {"day": date(2026, 4, 3), "provider": "prov-2", "assigned": 1, "assigned_out_of_hours": 1},
            {"day": date(2026, 4, 4), "provider": "prov-2", "assigned": 2, "assigned_out_of_hours": 1},
            {"day": date(2026, 4, 6), "provider": "prov-2", "assigned": 1, "assigned_out_of_hours": 1},
            {"day": date(2026, 4, 7), "provider": "prov-2", "assigned": 2, "assigned_out_of_hours": 1},
        ],
    ),
    Worked(
        "an alternative help is a referral",
        lines(_DAY),
        "alternative_help",
        [{"day": date(2026, 4, 1), "code": "IRKB", "category": "debt", "referrals": 1}],
    ),
    # Of A: 601 s at the first TERM, and the 60 s that the suppressed TERM stopped belong to it: 661.
    # Of B: 120 s, then 120 + 60 = 180 s, and no more after that.
    Worked(
        "a timer's seconds are on the log that stopped it or that is repeated, and what is billed grows with each",
        lines(_DAY, "A 2026-04-02T09:00 op-1 suspend_case/ABND"),
        "outcome_extract",
        [
            {"reference": "A", "time": at("2026-04-01T09:10:00.001"), "key": "suspend_case", "code": "TERM",
             "actor": "op-1", "category": "debt", "provider": None, "organisation": None, "source": "WEB",
             "timer_seconds": 661, "billable_time": 661},
            {"reference": "B", "code": "MANREF", "provider": "prov-1", "timer_seconds": 120, "billable_time": 120},
            {"reference": "B", "code": "REFSP", "provider": "prov-2", "timer_seconds": 60, "billable_time": 180},
            {"reference": "B", "code": "SPOP", "actor": "ben", "timer_seconds": None, "billable_time": 180},
            {"reference": "B", "code": "IRKB", "actor": "boss", "timer_seconds": None, "billable_time": 180},
            {"reference": "A", "code": "ABND", "timer_seconds": None, "billable_time": 661},
        ],
    ),
    # op-1 stopped none with TERM, op-2 (60 s) and boss (30 s) did with repetitions of it: its 90 s. ABND's are its own:
    # 10 s. The repetition of ABND by op-2 comes after a view: 20 s more, so 30, and 120 in all.
    Worked(
        "what repetitions stopped belongs to what they repeat, also where that stopped nothing itself",
        lines("""
            A 2026-04-01T09:00 op-1 case/CASE_CREATED category=debt
            - 2026-04-01T09:00 op-2 timer/TIMER_STARTED
            - 2026-04-01T09:01 boss timer/TIMER_STARTED
            A 2026-04-01T09:00:30 op-1 suspend_case/TERM
            A 2026-04-01T09:01:00 op-2 suspend_case/TERM
            A 2026-04-01T09:01:30 boss suspend_case/TERM
            - 2026-04-01T09:02:00 op-1 timer/TIMER_STARTED
            A 2026-04-01T09:02:10 op-1 suspend_case/ABND
            - 2026-04-01T09:03:00 op-2 timer/TIMER_STARTED
            A 2026-04-01T09:03:10 op-2 case/CASE_VIEWED
            A 2026-04-01T09:03:20 op-2 suspend_case/ABND
        """),
        "outcome_extract",
        [
            {"code": "TERM", "actor": "op-1", "timer_seconds": 90, "billable_time": 90},
            {"code": "ABND", "actor": "op-1", "timer_seconds": 30, "billable_time": 120},
        ],
    ),
    Worked(
        "an outcome counts once on its local day, as what the case was then",
        lines("""
            A 2026-06-29T09:00 op-1 case/CASE_CREATED category=debt
            A 2026-06-30T22:59:59+00:00 op-1 suspend_case/TERM
            A 2026-06-30T23:00:00+00:00 op-1 suspend_case/TERM
            A 2026-07-01T09:00 op-1 suspend_case/TERM notes=again
            A 2026-07-01T10:00 op-1 change_category/CATEGORY_CHANGED new_category=housing
        """),
        # 22:59:59 UTC is 23:59:59 on 30 June; a second later it is another day, and the same outcome counts (§3.1).
        "outcomes",
        [
            {"day": date(2026, 6, 30), "key": "suspend_case", "code": "TERM", "category": "debt", "outcomes": 1},
            {"day": date(2026, 7, 1), "key": "suspend_case", "code": "TERM", "category": "debt", "outcomes": 2},
        ],
    ),
]  # fmt: skip

WORKED = [*CALLBACKS, *COMPLAINTS, *PROVIDERS, *COUNTS]
