"""Hold what is stored against the log folded afresh: streams of rows in, findings out.

Two passes over the log: by actor for the timers, then by case, where each log carries the timer that the first pass
found. Memory is that of one case's log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby, islice
from operator import attrgetter, itemgetter
from typing import Any, Final

from caselog.events.folding.facts import Facts
from caselog.events.folding.recompute import ActorAfresh, Definitions, fold_whole_case, set_by
from caselog.events.folding.resolve import Rules
from caselog.events.model.state import MEMORY, CaseState, Log, TimerState
from caselog.schema.reports.catalogue import summed_reports
from caselog.schema.reports.terms.report import SUMS
from caselog.schema.verification import streams
from caselog.schema.verification.findings import Entry, Finding
from caselog.schema.verification.session import CASE, CASE_PLAIN, FLAGS, TIMER, Session
from caselog.schema.verification.streams import ACTOR_LOG, LOG, ROW, Part, Row
from caselog.workers.verification.compare_facts import StoredFacts

Advance = Callable[[int], None]

ADVANCED_LOGS: Final = 1000
_ACTOR: Final = itemgetter(ACTOR_LOG.index("actor"))
_CASE: Final = itemgetter(LOG.index("case_reference"))
_TIMER_AT: Final = len(ACTOR_LOG)
_flags: Final = attrgetter(*FLAGS)
_case_plain: Final = attrgetter(*CASE_PLAIN)
# What the column `memory` holds where it says nothing.
_memory_defaults: Final = {name: getattr(CaseState(reference=""), name) for name in MEMORY if name != "last_log"}
# Columns of a case that hold part of another field of the fold's state.
_FIELD_OF: Final = {"last_log_time": "last_log", "last_log_source": "last_log", "last_log_event_id": "last_log"}


def check_timers(session: Session, part: Part | None, definitions: Definitions, advance: Advance) -> Iterator[Finding]:
    """The timers, and the timer of each log, of a part of the actors or of the selected stretches."""
    rows = _counted(streams.actor_logs(session, part), advance)
    for _, group in groupby(rows, key=_ACTOR):
        yield from _check_actor(group, definitions)


def _check_actor(rows: Iterator[Row], definitions: Definitions) -> Iterator[Finding]:
    afresh = ActorAfresh(definitions)
    stored: Row | None = None
    started = last_of_case = log = None
    for row in rows:
        log = Log(
            id=row[0], source=row[1], event_id=row[2], key=row[3], code=row[4], type=row[5], level=row[6],
            occurred_at=row[7], case=row[8], actor=row[9],
        )  # fmt: skip
        timer_id, ended = afresh.take(log)
        if timer_id != row[10]:
            yield _finding(log, {"timer_id": row[10]}, {"timer_id": timer_id})
        if timer_id == log.id:
            stored = row[_TIMER_AT:] if row[_TIMER_AT] is not None else None
            started, last_of_case = log, None
        elif row[_TIMER_AT] is not None:
            yield _of_timer(row[_TIMER_AT:], None, {"": _entry(log)})
        if timer_id is not None and log.case is not None:
            last_of_case = log
        if ended is not None:
            assert started is not None
            yield from _compare_timer(stored, ended, started, last_of_case, log)
    if (running := afresh.running()) is not None:
        assert started is not None
        yield from _compare_timer(stored, running, started, last_of_case, None)


def _compare_timer(
    stored: Row | None, timer: TimerState, started: Log, last_of_case: Log | None, ended: Log | None
) -> Iterator[Finding]:
    fresh = (timer.id, timer.actor, timer.started_at, timer.stopped_at, timer.cancelled, timer.case)
    if stored != fresh:
        because = {"": _entry(started)}
        if ended is not None:
            because |= dict.fromkeys(("stopped_at", "cancelled"), _entry(ended))
        if last_of_case is not None:
            because["case_reference"] = _entry(last_of_case)
        yield _of_timer(stored, fresh, because)


def check_cases(
    session: Session,
    part: Part | None,
    definitions: Definitions,
    rules: Rules,
    advance: Advance,
    *,
    all_proved: bool = False,
) -> Iterator[Finding]:
    """The cases, and what their logs derive from them, of a part of the cases or of the selected ones.

    `all_proved`: each actor's timers were, and not only those of the selected logs.
    """
    stored = streams.stored_cases(session, part, all_proved=all_proved)
    logs = _counted(streams.case_logs(session, part), advance)
    facts = StoredFacts(session, part)
    beside = next(stored, None)
    for reference, group in groupby(logs, key=_CASE):
        yield from facts.before(reference)
        while beside is not None and beside[0] < reference:
            yield from _without_log(beside)
            beside = next(stored, None)
        mine, beside = (beside, next(stored, None)) if beside and beside[0] == reference else (None, beside)
        log_of_case = [_log(row) for row in group]
        yield from _check_case(reference, log_of_case, mine, definitions, rules, facts=facts)
    while beside is not None:
        yield from _without_log(beside)
        beside = next(stored, None)
    yield from facts.left()


def _check_case(
    reference: str, logs: list[Log], stored: Row | None, definitions: Definitions, rules: Rules, *, facts: StoredFacts
) -> Iterator[Finding]:
    before = [_flags(log) for log in logs]
    seconds, row = (0, None) if stored is None else (stored[1], stored[2:])
    if row is not None and row[0] is None:
        row = None
    whole = fold_whole_case(reference, logs, definitions, rules)
    yield from facts.check(reference, Facts() if whole is None else whole.facts)
    if whole is None:
        first = min(logs, key=lambda log: log.order_key)
        # Nothing to write: the log cannot be mended, and a case whose creation it lacks is not thrown away for that.
        yield _finding(first, {"case_reference": reference}, {"case_reference": "no log creates it"}, mendable=False)
        return
    for log, flags in zip(logs, before, strict=True):
        if _flags(log) != flags:
            yield _finding(log, dict(zip(FLAGS, flags, strict=True)), dict(zip(FLAGS, _flags(log), strict=True)))
    case = whole.case
    case.billable_time = seconds
    fresh = _case_row(case)
    if fresh != row:
        by = {name: _entry(log) for name, log in set_by(reference, logs, definitions, rules).items()}
        because = {name: by[_FIELD_OF.get(name, name)] for name in CASE if _FIELD_OF.get(name, name) in by}
        last = max(logs, key=lambda log: log.order_key)
        yield Finding(
            table="case",
            name=reference,
            case=reference,
            stored=None if row is None else dict(zip(CASE, row, strict=True)),
            fresh=dict(zip(CASE, fresh, strict=True)),
            because=because | {"": _entry(last)},
        )


def _without_log(stored: Row) -> Iterator[Finding]:
    if stored[2] is not None:
        row = dict(zip(CASE, stored[2:], strict=True))
        yield Finding(table="case", name=stored[0], case=stored[0], stored=row, fresh=None)


def check_strays(session: Session) -> Iterator[Finding]:
    """What no actor's log and no case's log leads to."""
    for row in streams.stray_timers(session):
        yield _of_timer(row, None, {})
    for log in map(_log, streams.stray_links(session)):
        yield _finding(log, {"timer_id": log.timer_id}, {"timer_id": None})
    for log in map(_log, streams.stray_flags(session)):
        nothing = dict.fromkeys(FLAGS) | {"suppressed": False}
        yield _finding(log, dict(zip(FLAGS, _flags(log), strict=True)), nothing)


def check_reports(session: Session, rules: Rules) -> Iterator[Finding]:
    """The reports of sums, against the log with the flags that it ought to have."""
    for report in summed_reports():
        gaps = streams.report_gaps(session, report, rules.zone.key, as_kept=True)
        names = [measure.name for measure in report.counted]
        while batch := list(islice(gaps, 1000)):
            found = streams.entries(session, [row[-1] for row in batch if row[-1] is not None])
            for row in batch:
                key, stored, fresh, newest = (
                    row[: len(ROW)],
                    row[len(ROW) : -1 - len(SUMS)],
                    row[-1 - len(SUMS) : -1],
                    row[-1],
                )
                shown = dict(zip(ROW, key, strict=True))
                dimensions = [shown["day"], *(shown[column.name] for column in report.dimensions[1:])]
                yield Finding(
                    table=f"report_{report.name}",
                    name=" / ".join("-" if value is None else str(value) for value in dimensions),
                    stored=dict(zip(names, stored, strict=False)),
                    fresh=dict(zip(names, fresh, strict=False)),
                    because={} if newest is None else {"": Entry(*found[newest])},
                )


def _counted(rows: Iterator[Row], advance: Advance) -> Iterator[Row]:
    number = 0
    for number, row in enumerate(rows, start=1):
        yield row
        if number % ADVANCED_LOGS == 0:
            advance(ADVANCED_LOGS)
    advance(number % ADVANCED_LOGS)


def _log(row: Row) -> Log:
    return Log(
        id=row[0], source=row[1], event_id=row[2], key=row[3], code=row[4], type=row[5], level=row[6],
        occurred_at=row[7], case=row[8], actor=row[9], role=row[10], actor_provider=row[11], notes=row[12],
        context=row[13], patch=row[14], extensions=row[15], timer_id=row[16], suppressed=row[17], category=row[18],
        provider=row[19], organisation=row[20], case_source=row[21], case_created_at=row[22],
    )  # fmt: skip


def _case_row(case: CaseState) -> Row:
    memory = {
        name: list(value) if isinstance(value, tuple) else value
        for name, default in _memory_defaults.items()
        if (value := getattr(case, name)) != default
    }
    return (*_case_plain(case), case.state, *(case.last_log or (None, None, None)), memory)


def _entry(log: Log) -> Entry:
    return Entry(log.id, log.occurred_at, log.key, log.code)


def _finding(log: Log, stored: dict[str, Any], fresh: dict[str, Any], *, mendable: bool = True) -> Finding:
    return Finding(
        table="log",
        name=log.id,
        case=log.case,
        stored=stored,
        fresh=fresh,
        because={"": _entry(log)},
        mendable=mendable,
    )


def _of_timer(stored: Row | None, fresh: Row | None, because: dict[str, Entry]) -> Finding:
    name, case = [(row[0], row[-1]) for row in (fresh, stored) if row is not None][0]  # noqa: RUF015 - the first there is
    return Finding(
        table="timer",
        name=name,
        case=case,
        stored=None if stored is None else dict(zip(TIMER, stored, strict=True)),
        fresh=None if fresh is None else dict(zip(TIMER, fresh, strict=True)),
        because=because,
    )
