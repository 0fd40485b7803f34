"""How long tests wait: as long as a machine may need that is busy with other things.

A test waits for a condition, never for a time. So a deadline costs nothing while what it waits for comes.
"""

from __future__ import annotations

from time import monotonic, thread_time
from typing import Final

# Only a test that fails waits so long.
DEADLINE_S: Final = 180.0
# So much of a processor's time tells how long is waited for one.
PROBE_CPU_S: Final = 0.2


def allowance_s(promised_s: float) -> float:
    """What a promise in seconds comes to on this machine just now, which may be busy with other things.

    As much longer as this thread waits for a processor: a machine with nothing else to do allows what is promised, and
    two seconds for processes to start and end.
    """
    began_s, began_cpu_s = monotonic(), thread_time()
    while thread_time() - began_cpu_s < PROBE_CPU_S:
        pass
    return 2 + promised_s * max(1.0, (monotonic() - began_s) / PROBE_CPU_S)
