"""What a crash point costs where none is asked for: nanoseconds a call, and a share of a batch.

python benchmarks/crash_points.py
"""

from __future__ import annotations

import timeit

from caselog.workers.process import crash_points

CALLS = 5_000_000
POINTS_A_BATCH = 8
BATCH_S = 0.05  # a batch of 1,000 events, at 20,000 events/s

if __name__ == "__main__":
    empty_s = timeit.timeit("pass", number=CALLS)
    point_s = timeit.timeit('crashing.reach("recorder.received")', globals={"crashing": crash_points}, number=CALLS)
    each_ns = (point_s - empty_s) / CALLS * 1e9
    share = each_ns * POINTS_A_BATCH / 1e9 / BATCH_S
    print(f"{each_ns:.0f} ns a point, {POINTS_A_BATCH} points a batch: {share:.6%} of its time")
