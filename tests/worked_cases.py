"""All cases worked out by hand; here those that count and sum up, from RULES.md §4 and §7, with the arithmetic."""

from __future__ import annotations

from datetime import date

from stories import Worked, at, lines
from worked_callbacks import CALLBACKS
from worked_complaints import COMPLAINTS
from worked_providers import PROVIDERS

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
    C 2026-04-01T10:12 web case/CASE_CREATED source=WEB eligibility_state=unknown category=debt
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
    # op-1: B created; TERM, MANREF, REFSP (the second TERM is suppressed). The manager's IRKB is refused: it is for
    # operators and specialists to select.
    Worked(
        "suppressed logs and other people's are not an operator's volume",
        lines(_DAY),
        "operator_volume",
        [
            {"day": date(2026, 4, 1), "operator": "op-1", "cases_created": 1, "outcomes": 3, "assignments": 2},
            {"day": date(2026, 4, 1), "operator": "op-2", "cases_created": 0, "outcomes": 1, "assignments": 0},
        ],
    ),
    # A was created at 00:30 on 1 April, London's time.
    Worked(
        "days are local, and what a case became later does not change how it came in",
        lines(_DAY),
        "case_volume",
        [
            {"day": date(2026, 4, 1), "source": "PHONE", "organisation": "org-1", "category": "debt", "cases": 1,
             "web_callback_only": 0},
            {"day": date(2026, 4, 1), "source": "WEB", "organisation": None, "category": "debt", "cases": 1,
             "web_callback_only": 0},
            {"day": date(2026, 4, 1), "source": "WEB", "organisation": None, "category": None, "cases": 1,
             "web_callback_only": 1},
        ],
    ),
    # Contacts: TERM (A, by then debt), MANREF, REFSP and IRKB (B, debt). SPOP stops no timer.
    Worked(
        "a contact counts under the category at the contact, in the month of the case's creation",
        lines(_DAY),
        "contacts_per_case",
        [
            {"month": "2026-04", "category": "debt", "cases": 2, "contacts": 4, "contacts_per_case": 2},
            {"month": "2026-04", "category": None, "cases": 1, "contacts": 0, "contacts_per_case": 0},
        ],
    ),
    Worked(
        "MANREF is no allocation",
        lines(_DAY),
        "provider_allocation",
        [{"day": date(2026, 4, 1), "category": "debt", "provider": "prov-2", "assigned": 1}],
    ),
    Worked(
        "an alternative help is a referral",
        lines(_DAY),
        "alternative_help",
        [{"day": date(2026, 4, 1), "code": "IRKB", "category": "debt", "referrals": 1}],
    ),
    # Of A: 601 s at the first TERM; the suppressed TERM adds 60 s, of which no row of A says any more.
    # Of B: 120 s, then 120 + 60 = 180 s, and no more after that.
    Worked(
        "a timer's seconds are on the log that stopped it, and what may be billed grows with each",
        lines(_DAY, "A 2026-04-02T09:00 op-1 suspend_case/ABND"),
        "outcome_extract",
        [
            {"reference": "A", "time": at("2026-04-01T09:10:00.001"), "key": "suspend_case", "code": "TERM",
             "actor": "op-1", "category": "debt", "provider": None, "organisation": None, "source": "WEB",
             "timer_seconds": 601, "billable_time": 601},
            {"reference": "B", "code": "MANREF", "provider": "prov-1", "timer_seconds": 120, "billable_time": 120},
            {"reference": "B", "code": "REFSP", "provider": "prov-2", "timer_seconds": 60, "billable_time": 180},
            {"reference": "B", "code": "SPOP", "actor": "ben", "timer_seconds": None, "billable_time": 180},
            {"reference": "B", "code": "IRKB", "actor": "op-2", "timer_seconds": None, "billable_time": 180},
            {"reference": "A", "code": "ABND", "timer_seconds": None, "billable_time": 661},
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
