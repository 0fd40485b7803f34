"""What complaints a simulated case has: one, or now and then two at a time, each with a life of its own."""

from __future__ import annotations

from collections.abc import Generator
from datetime import datetime
from typing import Final

from caselog.workers.producers.simulated_case import Actor, Context, SimulatedCase, Visit

ENDS: Final[dict[str, tuple[str, ...]]] = {
    "answered": ("FULL_RESPONSE_SENT", "COMPLAINT_CLOSED"),
    "reopened": ("FULL_RESPONSE_SENT", "COMPLAINT_CLOSED", "COMPLAINT_REOPENED", "COMPLAINT_CLOSED"),
    "void": ("COMPLAINT_VOID",),
    "open": (),
}


class ComplainedCase(SimulatedCase):
    """A case about whose handling its client may complain."""

    def complaints(self, at: datetime) -> Generator[Visit, datetime, datetime]:
        """The complaints' lives, from creation to their ends; not each of them comes to one.

        A case's only complaint has a name or none. Of two at a time one has a name and the other, mostly, none.
        """
        by = Actor("/complaints", f"complaints-{self.rng.randrange(1, 4)}", "operator")
        if self.chance(0.2):
            by = Actor("/complaints", "manager-1", "operator_manager")
        named: Context = {"complaint": f"{self.case}/1"}
        if self.chance(0.35):
            other: Context = {} if self.chance(0.7) else {"complaint": f"{self.case}/2"}
            lives = [self._life(named), self._life(other)]
        else:
            lives = [self._life(named if self.chance(0.5) else {})]
        while lives := [life for life in lives if life]:
            code, context = self.rng.choice(lives).pop(0)
            owner = {"owner": by.id} if code == "OWNER_SET" else {}
            acts = [self.act("complaint", code, context={**context, **owner})]
            at = yield Visit(self.later(at, 1, 40), acts, by)
        if self.chance(0.1):
            acts = [self.act("case", "COMPLAINT_FLAG_TOGGLED", params={"status": "complaint_flag_toggled"})]
            at = yield Visit(self.later(at, 1, 40), acts, by)
        return at

    def _life(self, context: Context) -> list[tuple[str, Context]]:
        codes = ["COMPLAINT_CREATED", "OWNER_SET"]
        chances = (("HOLDING_LETTER_SENT", 0.85), ("COMPLAINT_NOTE", 0.4), ("TRANSFERRED_TO_SPECIALIST", 0.1))
        codes += [code for code, share in chances if self.chance(share)]
        codes += ENDS[self.weighted({"answered": 72, "reopened": 12, "void": 8, "open": 8})]
        return [(code, context) for code in codes]
