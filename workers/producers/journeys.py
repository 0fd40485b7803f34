"""What happens to one simulated case: a journey of visits, each made by one person at one time.

A journey knows what comes next and how long it takes; `workers/producers/simulation.py` decides who is free for it and
when.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from datetime import datetime
from random import Random
from typing import Final

from caselog.workers.producers.simulated_case import Act, Actor, Context, Pace, Steps, Visit, rfc3339
from caselog.workers.producers.simulated_complaints import ComplainedCase

CATEGORIES: Final = {"debt": 30, "housing": 28, "family": 16, "education": 9, "discrimination": 9, "benefits": 8}
PROVIDERS: Final = tuple(f"prov-{number}" for number in range(1, 9))
SPECIALISTS: Final = ("anna", "ben", "carla", "david")
ORGANISATIONS: Final = ("advice-north", "advice-south", "advice-wales")
WEB_FORM: Final = Actor("/web-form", "web", "web")
TELEPHONY: Final = Actor("/telephony", "telephony", "system")
MANAGER: Final = Actor("/call-centre", "manager-1", "operator_manager")
CALLBACKS: Final = ("CB1", "CB2", "CB3")
SUSPENSIONS: Final = {
    "INSUF": 14, "ABND": 16, "TERM": 12, "IRCB": 9, "COPE": 5, "WROF": 3, "SAME": 6,
    "MRNB": 4, "MRCC": 4, "REFDPA": 5, "RELBD": 3, "RSTR": 2, "NOLA": 12, "DUPL": 5,
}  # fmt: skip


class Journey(ComplainedCase):
    """One case from its creation to wherever it gets."""

    def __init__(self, rng: Random, references: Callable[[], str], pace: Pace) -> None:
        super().__init__(rng, references, pace)
        self.category = self.weighted(CATEGORIES)
        self.attempts = 0
        self.referrals = 0
        self.due: datetime | None = None

    def steps(self, at: datetime) -> Steps:
        """The whole journey of a case that begins at that moment."""
        source = self.weighted({"PHONE": 74, "WEB": 16, "VOICEMAIL": 5, "SMS": 5})
        if source == "PHONE":
            at = yield from self.call(at, [self.created(source)])
        elif source == "WEB" and self.chance(0.5):  # nothing but a request to be called
            booked = self.callback(at)
            again = [booked[-1]._replace(after_s=2)] if self.chance(0.1) else []
            at = yield Visit(at, [self.created(source, told=False), *booked, *again], WEB_FORM)
            at = yield from self.called_back(at)
        else:
            at = yield Visit(at, [self.created(source)], WEB_FORM if source == "WEB" else TELEPHONY)
            at = self.later(at, 0.3, 6)
            at = yield Visit(at, [self.viewed(), *self.callback(at)])
            at = yield from self.called_back(at)
        if self.chance(0.06):
            yield from self.complaints(at)

    # -- calls ---------------------------------------------------------------------------------------------------

    def call(self, at: datetime, acts: list[Act]) -> Generator[Visit, datetime, datetime]:
        """An operator talks to the client, finds out what is the matter, and comes to an outcome."""
        if self.chance(0.15):
            organisation = self.rng.choice(ORGANISATIONS)
            acts.append(self.act("case", "CASE_ORGANISATION_SET", context={"organisation": organisation}))
        eligible = True
        if self.chance(0.9):
            eligible = self.found_out(acts)
        endings = {
            "referred": 60,
            "suspended": 14,
            "later": 12,
            "declined": 5,
            "elsewhere": 4,
            "deferred": 3,
            "lost": 2,
        }
        if not eligible:
            endings = {"elsewhere": 62, "suspended": 20, "declined": 18}
        ending = self.weighted(endings)
        if ending == "referred":
            return (yield from self.referred(at, acts))
        if ending == "later":
            at = yield Visit(at, [*acts, *self.callback(at)])
            return (yield from self.called_back(at))
        if ending == "deferred":
            at = yield Visit(at, [*acts, self.act("defer_assignment", "CBSP", params={})])
            return (yield from self.referred(self.later(at, 20, 100), [self.viewed()]))
        if ending == "lost":
            at = yield Visit(at, acts, cancelled=True)
            at, acts = self.later(at, 0.1, 20), [self.viewed()]
        last = self.ended(at, acts, ending)
        at = yield last
        if last.acts[-1].data.get("code") == "IRCB" and self.chance(0.7):  # the manager's to call
            outcome = self.act("decline_help", "NRES") if self.chance(0.3) else self.act("alternative_help", "IRKB")
            at = yield Visit(self.later(at, 1, 30), [self.viewed(), self.call_started(), outcome], MANAGER)
        return at

    def found_out(self, acts: list[Act]) -> bool:
        """Diagnosis and means test; whether the case can go to a specialist."""
        if self.chance(0.04):
            acts.append(self.act("diagnosis", "INCOMPLETE_DIAGNOSIS_DELETED", params={"status": "incomplete_deleted"}))
        if self.chance(0.02):  # begun anew, with other answers
            acts.append(self.act("diagnosis", "DIAGNOSIS_CREATED", params={"status": "created"}))
            acts.append(self.act("diagnosis", "DIAGNOSIS_DELETED", params={"status": "deleted"}))
        in_scope = self.chance(0.85)
        scope = {"state": "INSCOPE" if in_scope else "OUTOFSCOPE", "category": self.category}
        acts.append(self.act("diagnosis", "DIAGNOSIS_CREATED", params={"status": "created"}, context=scope))
        if self.chance(0.05):
            self.category = self.weighted(CATEGORIES)
            acts.append(self.act("change_category", "CATEGORY_CHANGED", context={"new_category": self.category}))
        if not in_scope:
            return False
        acts.append(self.means_test("MT_CREATED", "created", "unknown"))
        passed = self.chance(0.85)
        result = ("MT_PASSED", "passed", "yes") if passed else ("MT_FAILED", "failed", "no")
        acts.append(self.means_test(*result))
        return passed

    def ended(self, at: datetime, acts: list[Act], ending: str) -> Visit:
        """The visit with the outcome that ends it; now and then an operator presses the button twice."""
        if ending == "declined":
            outcome = self.act("decline_help", self.weighted({"DESP": 4, "DECL": 5, "NRES": 1}))
        elif ending == "elsewhere":
            code = self.weighted({"IRKB": 5, "COSPF": 3, "SPFN": 2, "SPFM": 2, "EDFF": 1})
            outcome = self.act("alternative_help", code)
        else:
            outcome = self.act("suspend_case", self.weighted(SUSPENSIONS))
        again = [outcome._replace(after_s=2)] if self.chance(0.02) else []
        return Visit(at, [*acts, outcome, *again])

    # -- callbacks -----------------------------------------------------------------------------------------------

    def callback(self, at: datetime, *, priority: bool = False) -> list[Act]:
        """The outcome that books the next callback."""
        self.due = self.later(at, 0.5, 4) if self.chance(0.3) else self.later(at, 2, 50)
        when = {"requires_action_at": rfc3339(self.due)}
        code = "PCB" if priority else CALLBACKS[self.attempts]
        self.attempts += 1
        params = {"priority_callback": True} if priority else None
        return [self.act("call_me_back", code, params=params, context=when)]

    def called_back(self, at: datetime) -> Generator[Visit, datetime, datetime]:
        """Callbacks until the client is reached, gives up or three have failed."""
        urgent = False
        while True:
            # The client rings to have the callback moved.
            if self.attempts < len(CALLBACKS) and self.chance(0.5 if urgent else 0.05):
                at = self.later(at, 0.1, 2)
                at = yield Visit(at, [self.viewed(), *self.callback(at, priority=urgent)])
            at = max(at, self.later(self.due or at, 0, 0.7))
            acts = [self.viewed(), self.call_started()]
            if self.chance(0.04):
                acts.append(self.call_started())
            by = MANAGER if self.chance(0.05) else None
            answer = self.weighted({"reached": 60, "nobody": 25, "cancelled": 7, "urgent": 8})
            if answer == "nobody" and self.attempts < len(CALLBACKS):
                at = yield Visit(at, [*acts, *self.callback(at)], by)
                urgent = False
            elif answer == "urgent" and self.attempts == 1:
                at = yield Visit(at, [*acts, *self.callback(at, priority=True)], by)
                urgent = True
            elif answer == "cancelled":
                self.attempts = 0
                return (yield Visit(at, [*acts, self.act("stop_call_me_back", "CBC")], by))
            elif answer == "nobody":
                return (yield Visit(at, [*acts, self.act("suspend_case", "ABND")], by))
            else:
                complete = self.act("stop_call_me_back", "CALLBACK_COMPLETE")
                self.attempts = 0
                return (yield from self.call(at, [*acts, complete]))

    # -- specialists ---------------------------------------------------------------------------------------------

    def referred(
        self, at: datetime, acts: list[Act], provider: str | None = None
    ) -> Generator[Visit, datetime, datetime]:
        """The case goes to a specialist provider, any or that one, who views it and takes or rejects it."""
        provider = provider or self.rng.choice(PROVIDERS)
        self.referrals, self.attempts = self.referrals + 1, 0
        assignment = self.assignment(provider)
        again = [assignment._replace(after_s=2)] if self.chance(0.02) else []
        at = assigned = yield Visit(at, [*acts, assignment, *again])
        if self.chance(0.08):  # that one cannot take it: another is asked, mostly on the same day
            provider = self.rng.choice([other for other in PROVIDERS if other != provider])
            at = assigned = yield Visit(self.later(at, 0.05, 3), [self.viewed(), self.assignment(provider)])
        if self.chance(0.06):  # the client rings before the specialist has looked
            at = yield Visit(self.later(at, 3, 30), [self.viewed(), self.act("suspend_case", "RDSP")])
        if self.chance(0.05):
            return at
        if self.chance(0.06):  # the manager looks first, for whose view nobody waits, and asks the provider to
            at = yield Visit(self.later(at, 0.1, 2), [self.act("open_case", "CASE_VIEWED", params={})], MANAGER)
            return (yield from self.examined(at, provider, assigned, within_h=3))
        return (yield from self.examined(at, provider, assigned, within_h=30))

    def examined(
        self, at: datetime, provider: str, assigned: datetime, *, within_h: float
    ) -> Generator[Visit, datetime, datetime]:
        """What a provider's specialist makes of a case."""
        by = Actor("/provider-portal", f"{provider}-{self.rng.choice(SPECIALISTS)}", "specialist", provider)
        opened = self.act("open_case", "CASE_VIEWED", params={}) if self.chance(0.85) else self.viewed()
        at = yield Visit(self.later(at, 1, within_h), [opened], by)
        at = self.later(at, 0.1, 20)
        decision = self.weighted({"taken": 76, "rejected": 12, "sent back": 8, "left": 4})
        if decision == "taken":
            at = yield from self.taken(at, by, assigned)
        elif decision == "rejected":
            code = self.weighted({"MIS-OOS": 4, "MIS-MEANS": 3, "MERI": 4, "DUPL": 2, "CLOT": 3})
            at = yield Visit(at, [self.act("reject_case", code)], by)
            if self.referrals == 1 and self.chance(0.25):  # the client has sent what was missing
                at = yield from self.referred(self.later(at, 0.2, 20), [self.viewed()], provider)
        elif decision == "sent back":
            at = yield from self.sent_back(at, by)
        return at

    def sent_back(self, at: datetime, by: Actor) -> Generator[Visit, datetime, datetime]:
        """Misdirected or a conflict of interest: another provider is found, the second time by the manager."""
        back = self.act("reject_case", "MIS")
        if self.chance(0.5):
            back = self.act("reject_case", "COI", params={"is_conflict": True})
        at = yield Visit(at, [back], by)
        if self.referrals == 1:
            return (yield from self.referred(self.later(at, 1, 20), [self.viewed()]))
        acts = [self.viewed()]
        if self.chance(0.5):
            acts.append(self.assignment(self.rng.choice(PROVIDERS), "MANALC"))
        return (yield Visit(self.later(at, 1, 20), acts, MANAGER))

    def taken(self, at: datetime, by: Actor, assigned: datetime) -> Generator[Visit, datetime, datetime]:
        """A specialist's work on a case that he or she took."""
        at = yield Visit(at, [self.act("accept_case", "SPOP", params={})], by)
        if self.chance(0.2):
            at = yield Visit(self.later(at, 20, 120), [self.means_test("MT_CHANGED", "changed", "yes")], by)
        if self.chance(0.07):
            at = yield from self.split(self.later(at, 20, 120), by, assigned, owner="2_provider")
        if self.chance(0.2):
            return at  # still open at the end of the simulation
        debt = self.category == "debt" and self.chance(0.3)
        closed = self.act("close_case", "CLSP", params={})
        if debt:
            closed = self.act("close_case", "DREFER", params={"is_debt_referral": True}, noted=True)
        at = yield Visit(self.later(at, 24, 500), [closed], by)
        if self.chance(0.08):
            reopened = self.act("reopen_case", "REOPEN", params={}, noted=True)
            at = yield Visit(self.later(at, 24, 200), [reopened], by)
            if self.chance(0.2):  # closed as it was, it is nobody's
                at = yield from self.split(self.later(at, 1, 40), by, assigned, owner=None)
            at = yield Visit(self.later(at, 24, 200), [self.act("close_case", "CLSP", params={})], by)
        return at

    def split(
        self, at: datetime, by: Actor, assigned: datetime, *, owner: str | None
    ) -> Generator[Visit, datetime, datetime]:
        """A second case comes out of this one, and the provider keeps it or sends it elsewhere.

        `owner`: who has to act on the case that is split. Who keeps a case keeps that too.
        """
        old, new, internal = self.case, self.references(), self.chance(0.6)
        context: Context = {"category": self.weighted(CATEGORIES), "from_case": old}
        if internal:
            context |= {"provider": by.provider, "provider_assigned_at": rfc3339(assigned), "requires_action_by": owner}
        code = "REF-INT" if internal else "REF-EXT"
        self.case = new
        acts = [
            self.act("case", "CASE_CREATED", params={"status": "created"}, context=context),
            self.act("split_case", code, params={"internal": internal}),
        ]
        self.case = old
        at = yield Visit(at, [*acts, self.act("split_case", f"{code}_CREATED")], by)
        if internal:
            self.case = new
            at = yield Visit(self.later(at, 1, 40), [self.act("accept_case", "SPOP", params={})], by)
            self.case = old
        return at

    # -- acts ----------------------------------------------------------------------------------------------------

    def created(self, source: str, *, told: bool = True) -> Act:
        """`told`: the web form asked for more than a time to call. Who rings says what it is about in the call."""
        context: Context = {"source": source}
        if source == "WEB" and told:
            context["category"] = self.category
        if self.chance(0.3):
            context["organisation"] = self.rng.choice(ORGANISATIONS)
        if source == "WEB" and told and self.chance(0.6):
            context["eligibility_state"] = "unknown"
        return self.act("case", "CASE_CREATED", params={"status": "created"}, context=context)

    def viewed(self) -> Act:
        return self.act("case", "CASE_VIEWED", params={"status": "viewed"})

    def call_started(self) -> Act:
        return self.act("case", "CALL_STARTED", params={"status": "call_started"})

    def assignment(self, provider: str, code: str | None = None) -> Act:
        """To that provider, by that code or by any of the four."""
        flags = {"REFSP": "", "MANALC": "is_manual", "MANREF": "is_manual_ref", "SPOR": "is_spor"}
        code = code or self.weighted({"REFSP": 80, "MANALC": 14, "MANREF": 4, "SPOR": 2})
        params = {flags[code]: True} if flags[code] else {}
        return self.act("assign_to_provider", code, params=params, context={"provider": provider})

    def means_test(self, code: str, status: str, state: str) -> Act:
        act = self.act("means_test", code, params={"status": status}, context={"state": state})
        if code == "MT_CHANGED":
            forwards = [{"op": "replace", "path": "/savings", "value": self.rng.randrange(0, 8000)}]
            backwards = [{"op": "replace", "path": "/savings", "value": self.rng.randrange(0, 8000)}]
            act.data["patch"] = {"forwards": forwards, "backwards": backwards}
        return act
