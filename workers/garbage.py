"""Python's search for garbage that refers to itself: made rare, since a batch makes many objects and none of that.

By default it begins whenever 700 objects more were made than deleted, some twenty times a batch of 1,000 events, and
goes through all that the batch holds just then: a fifth to a third of a worker's processor time, and it finds nothing.
"""

from __future__ import annotations

import gc
from typing import Final

# A batch of 1,000 events holds some 15,000 objects at once. What little garbage there is beside (of an exception, of a
# connection that was lost) is found all the same, when it comes to some megabytes.
OBJECTS: Final = 50_000


def collect_rarely() -> None:
    """To be called once, when a worker is set up: what is there by then stays, and is never looked through again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(OBJECTS, *gc.get_threshold()[1:])
