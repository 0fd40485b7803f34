"""The breaker: says when most of what arrives dies, seldom the data's fault (docs/design.md "A bad deploy")."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping

import msgspec

from caselog.events.phrases import count_of


class Verdict(msgspec.Struct, frozen=True):
    """Why the breaker tripped: of the last `arrived` events, so many became dead letters, by reason."""

    arrived: int
    dead: Mapping[str, int]

    @property
    def deaths(self) -> int:
        return sum(self.dead.values())

    def in_words(self) -> str:
        """What happened and what to do, without anything of the events."""
        reason, times = max(self.dead.items(), key=lambda item: item[1])
        return (
            f"{self.deaths:,} of the last {count_of(self.arrived, 'event')} became dead letters, {times:,} of them "
            f"{reason}. See: caselog dead list --group --reason {reason}. Deploy what knows these events, or run: "
            f"caselog resume"
        )


class Breaker:
    """Watches a sliding window of about the last `count` events that arrived for the first time.

    Trips when `ratio` of them or more (0 to 1) became dead letters. `ratio` or `count` 0: never. Redelivered events
    are not for the window: neither what is recorded already nor what is a dead letter already says anything new.
    """

    def __init__(self, ratio: float, count: int) -> None:
        self._ratio = ratio
        self._count = count
        self._window: deque[Verdict] = deque()
        self._arrived = 0
        self._dead: Counter[str] = Counter()

    def observe(self, arrived: int, dead: Mapping[str, int]) -> Verdict | None:
        """Take in a batch: events that arrived, and those of them that died, by reason. A verdict where it trips.

        The window holds whole batches: at least `count` events before it can trip, and not one batch more than needed.
        """
        if not (self._ratio and self._count and arrived):
            return None
        self._window.append(Verdict(arrived, dead))
        self._arrived += arrived
        self._dead.update(dead)
        while self._arrived - self._window[0].arrived >= self._count:
            oldest = self._window.popleft()
            self._arrived -= oldest.arrived
            self._dead.subtract(oldest.dead)
        if self._arrived < self._count or self._dead.total() < self._ratio * self._arrived:
            return None
        return Verdict(self._arrived, {reason: times for reason, times in self._dead.items() if times})

    def reset(self) -> None:
        """Forget what was seen: after a pause, what comes is judged anew."""
        self._window.clear()
        self._arrived = 0
        self._dead.clear()
