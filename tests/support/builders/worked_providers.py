"""What becomes of cases that providers are given, worked out by hand from docs/rules.md §7."""

from __future__ import annotations

from datetime import date

from support.builders.stories import Row, Worked, lines


def _provider(law: str, story: str, *rows: Row) -> Worked:
    beginning = "A 2026-03-02T09:00 op-1 case/CASE_CREATED"
    return Worked(law, lines(beginning, story), "provider_performance", list(rows))


PROVIDERS = [
    # Viewed after 1 h, accepted after 2 h 30 min, closed a day after that.
    _provider(
        "viewed, accepted, closed",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T10:30 ben@prov-2 case/CASE_VIEWED
        A 2026-03-02T11:00 anna@prov-1 open_case/CASE_VIEWED
        A 2026-03-02T12:00 anna@prov-1 case/CASE_VIEWED
        A 2026-03-02T12:30 anna@prov-1 accept_case/SPOP
        A 2026-03-03T12:30 anna@prov-1 close_case/CLSP
        """,
        {
            "day": date(2026, 3, 2), "provider": "prov-1", "assigned": 1, "viewed": 1, "accepted": 1, "rejected": 0,
            "closed": 1, "mean_seconds_to_view": 3600, "mean_seconds_to_accept": 9000, "mean_seconds_to_close": 86400,
        },
    ),
    _provider(
        "to another provider: what the first one did stays the first one's",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T11:00 anna@prov-1 open_case/CASE_VIEWED
        A 2026-03-02T12:00 op-1 assign_to_provider/MANREF provider=prov-2
        A 2026-03-02T13:00 anna@prov-1 open_case/CASE_VIEWED
        A 2026-03-02T14:00 ben@prov-2 accept_case/SPOP
        """,
        {"provider": "prov-1", "assigned": 1, "viewed": 1, "accepted": 0, "rejected": 0, "closed": 0},
        {
            "provider": "prov-2", "assigned": 1, "viewed": 0, "accepted": 1, "rejected": 0, "closed": 0,
            "mean_seconds_to_view": None, "mean_seconds_to_accept": 7200, "mean_seconds_to_close": None,
        },
    ),
    # The first after 10 s, the second after 20 s, the third not: the mean is that of two.
    _provider(
        "a mean is that of those that got so far, and each assignment counts",
        """
        A 2026-03-02T10:00:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T10:00:10 anna@prov-1 open_case/CASE_VIEWED
        A 2026-03-02T11:00:00 op-1 assign_to_provider/MANALC provider=prov-1
        A 2026-03-02T11:00:20 anna@prov-1 open_case/CASE_VIEWED
        A 2026-03-02T12:00:00 op-1 assign_to_provider/SPOR provider=prov-1
        """,
        {"provider": "prov-1", "assigned": 3, "viewed": 2, "mean_seconds_to_view": 15},
    ),
    _provider(
        "a conflict of interest is a rejection, and what came before it stays",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T11:00 anna@prov-1 open_case/CASE_VIEWED
        A 2026-03-02T12:00 anna@prov-1 accept_case/SPOP
        A 2026-03-02T13:00 anna@prov-1 reject_case/COI
        A 2026-03-02T14:00 anna@prov-1 close_case/CLSP
        """,
        {"provider": "prov-1", "assigned": 1, "viewed": 1, "accepted": 1, "rejected": 1, "closed": 0},
    ),
    _provider(
        "a rejection stands until the case is opened again",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T11:00 anna@prov-1 reject_case/MERI
        """,
        {"assigned": 1, "accepted": 0, "rejected": 1, "closed": 0},
    ),
    _provider(
        "rejected, opened again, taken and closed: closed",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T11:00 anna@prov-1 reject_case/MERI
        A 2026-03-02T12:00 anna@prov-1 reopen_case/REOPEN
        A 2026-03-02T13:00 anna@prov-1 accept_case/SPOP
        A 2026-03-02T14:00 anna@prov-1 close_case/DREFER
        """,
        {"assigned": 1, "accepted": 1, "rejected": 0, "closed": 1, "mean_seconds_to_close": 3600},
    ),
    _provider(
        "closed and opened again: not closed, and closed again: by the last",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T12:00 anna@prov-1 accept_case/SPOP
        A 2026-03-02T13:00 anna@prov-1 close_case/CLSP
        A 2026-03-03T13:00 anna@prov-1 reopen_case/REOPEN
        B 2026-03-02T09:00 op-1 case/CASE_CREATED
        B 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-2
        B 2026-03-02T12:00 ben@prov-2 accept_case/SPOP
        B 2026-03-02T13:00 ben@prov-2 close_case/CLSP
        B 2026-03-03T13:00 ben@prov-2 reopen_case/REOPEN
        B 2026-03-04T12:00 ben@prov-2 close_case/CLSP
        """,
        {"provider": "prov-1", "closed": 0, "mean_seconds_to_close": None},
        {"provider": "prov-2", "closed": 1, "mean_seconds_to_close": 172800},
    ),
    _provider(
        "rejected and closed in one moment: the last in the order decides",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T12:00 anna@prov-1 reject_case/MERI
        A 2026-03-02T12:00 anna@prov-1 close_case/CLSP
        """,
        {"provider": "prov-1", "rejected": 0, "closed": 1},
    ),
    _provider(
        "a split case keeps its provider, and nobody was assigned by it",
        """
        A 2026-03-02T10:00 op-1 assign_to_provider/REFSP provider=prov-1
        A 2026-03-02T11:00 anna@prov-1 accept_case/SPOP
        B 2026-03-03T09:00 anna@prov-1 case/CASE_CREATED from_case=A provider=prov-1 \
provider_assigned_at=2026-03-02T10:00
        B 2026-03-03T10:00 anna@prov-1 accept_case/SPOP
        B 2026-03-04T10:00 anna@prov-1 close_case/CLSP
        """,
        {"day": date(2026, 3, 2), "provider": "prov-1", "assigned": 1, "accepted": 1, "closed": 0},
    ),
]  # fmt: skip
