"""Python's search for garbage that refers to itself: made rare, since a batch makes many objects and none of that.

By default it begins whenever 700 objects more were made than deleted, a hundred times a batch of 2,000 events, and
goes through all that the batch holds just then: a fifth to a third of a worker's processor time, and it finds nothing.
"""

from __future__ import annotations

import gc
from typing import Final

# What little garbage there is (of an exception, of a connection that was lost) is found all the same, when it comes to
# some megabytes.
OBJECTS: Final = 50_000
# A batch holds some 30 an event at once, where each came in a message of its own.
OBJECTS_AN_EVENT: Final = 60


def collect_rarely(batch_events: int = 0) -> None:
    """To be called once, when a worker is set up: what is there by then stays, and is never looked through again.

    Batches of so many events are worked on without a search.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(max(OBJECTS, OBJECTS_AN_EVENT * batch_events), *gc.get_threshold()[1:])
