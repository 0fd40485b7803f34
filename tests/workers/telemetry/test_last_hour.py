"""The last hour as the ops page tells it: rates, quantiles and sparklines from samples of counters."""

from __future__ import annotations

import re

import pytest

from caselog.workers.telemetry.counters import EVENT_TO_COMMIT, RECEIPT_TO_COMMIT
from caselog.workers.telemetry.last_hour import EVERY_S, KEPT_S, STEPS, LastHour, Moment, Numbers, quantile
from caselog.workers.web.ops import sparkline

EDGES = EVENT_TO_COMMIT.edges


def numbers(recorded: float, dead: float = 0, fast: float = 0) -> Numbers:
    """So many recorded, `fast` of them within the first bucket."""
    return Numbers(recorded, dead, [fast, *[0.0] * len(EDGES)], [0.0] * (len(RECEIPT_TO_COMMIT.edges) + 1))


def test_what_was_counted_before_the_first_sample_is_not_of_this_hour() -> None:
    hour = LastHour()
    for at_s, recorded in ((0.0, 1000.0), (3.0, 1030.0), (6.0, 1060.0)):
        hour.add(Moment(at_s, numbers(recorded, dead=recorded / 10, fast=recorded), {"caselog.events": int(at_s)}))
    told = hour.told(6.0)
    assert (told.recorded, told.dead, told.per_s, told.dead_per_s) == (60, 6, 10, 1)
    assert told.to_commit is not None
    assert told.to_commit.median_s == pytest.approx(EDGES[0] / 2)
    assert told.to_commit.most_s == pytest.approx(EDGES[0] * 0.95)
    assert told.from_receipt is None
    assert max(value for value in told.waiting["caselog.events"] if value is not None) == 6


def test_counters_that_begin_anew_are_counted_from_nought() -> None:
    """Redis was emptied: as Prometheus reads a reset."""
    hour = LastHour()
    for at_s, recorded in ((0.0, 100.0), (3.0, 130.0), (6.0, 5.0), (9.0, 15.0)):
        hour.add(Moment(at_s, numbers(recorded), None))
    assert hour.told(9.0).recorded == 30 + 5 + 10


def test_while_a_server_is_away_its_numbers_are_gaps_and_not_zero() -> None:
    hour = LastHour()
    for second in range(0, 600, 3):
        is_away = 200 <= second < 400
        hour.add(Moment(second, None if is_away else numbers(second), None if is_away else {"q": 7}))
    told = hour.told(600)
    assert told.waiting["q"].count(None) >= STEPS // 4
    assert set(told.waiting["q"]) == {None, 7.0}
    assert told.recorded == 597


def test_the_memory_of_a_long_life_is_that_of_an_hour() -> None:
    hour = LastHour()
    for sample in range(5000):
        hour.add(Moment(sample * EVERY_S, numbers(sample), {"q": 1}))
    told = hour.told(5000 * EVERY_S)
    assert told.recorded <= KEPT_S / EVERY_S
    assert told.covered_s <= KEPT_S
    assert len(told.recorded_by_step) == len(told.waiting["q"]) == STEPS


def test_before_the_first_sample_nothing_is_known() -> None:
    told = LastHour().told(0.0)
    assert (told.per_s, told.to_commit, told.waiting) == (None, None, {})
    assert set(told.recorded_by_step) == {None}


def test_a_quantile_lies_within_its_bucket_and_beyond_the_last_edge_it_is_that_edge() -> None:
    edges = (1.0, 2.0, 4.0)
    assert quantile(edges, (2, 2, 0, 0), 0.5) == 1.0
    assert quantile(edges, (0, 0, 10, 0), 0.5) == 3.0
    assert quantile(edges, (1, 0, 0, 99), 0.5) == 4.0


def test_a_sparkline_stays_within_its_box_and_has_a_line_for_each_run() -> None:
    drawn = sparkline.draw([None, 0.0, 5.0, None, 10.0, None])
    assert drawn.line.count("M") == 2
    assert drawn.highest == 10
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", drawn.line)]
    assert min(ys) >= 0
    assert max(ys) <= sparkline.HEIGHT
    assert sparkline.draw([]) == sparkline.draw([None]) == sparkline.Sparkline("", "", 0.0)
    assert "nan" not in sparkline.draw([0.0, 0.0]).line
