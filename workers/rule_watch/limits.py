"""When a rule takes too long: for the worker that interrupts it, and for the watcher that ends the worker."""

from __future__ import annotations

from typing import Final

# A rule that computes for less than a tenth of its time waits for something: it sleeps, or asks somebody.
WAITS_BELOW: Final = 0.1
# One that does either, by turns, has four times as long.
PATIENCE: Final = 4
_SECOND_NS: Final = 1_000_000_000


def is_overdue(held_s: float, computed_s: float, queued_s: float, limit_s: float) -> bool:
    """Whether a rule that was in hand for so long, and computed for so much of it, takes too long.

    `queued_s` is how long it wanted to compute and had no processor: that is the machine's doing.
    """
    own_s = max(held_s - queued_s, computed_s)
    if computed_s >= limit_s:
        return True
    return own_s >= limit_s and (computed_s < WAITS_BELOW * own_s or own_s >= PATIENCE * limit_s)


def queued_s(process: int | str, thread: int) -> float:
    """How long a thread has wanted a processor and had none, in seconds; 0 where the kernel does not say."""
    try:
        with open(f"/proc/{process}/task/{thread}/schedstat", encoding="ascii") as file:  # noqa: PTH123 - twice a second
            return int(file.read().split()[1]) / _SECOND_NS
    except (OSError, IndexError, ValueError):
        return 0.0
