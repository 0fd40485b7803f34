"""Definitions that outlive their registration: what is kept of a code, and how the registry is held against it.

The log is for ever, and code is not: a code that is removed from an `events.py` has logs all the same, and folding
them again must give what it gave before. So the definitions that logs were folded with are kept in the database.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from caselog.events.model.codes import Code, LogLevel, LogType, RequiresActionBy, Role
from caselog.events.model.registry import EventRegistry
from caselog.events.phrases import count_of

# Where these differ, the same log folds otherwise than it did; description, order and selectable_by are free.
FOLDED: Final = (
    "type", "level", "stops_timer", "creates_case", "starts_timer", "cancels_timer", "distinguished_by",
    "set_requires_action_by",
)  # fmt: skip
# The rules for `requires_action_by` that can be found again by name. An organisation's own callable cannot.
_RULES: Final = {"none_if_owned_by_operator_or_manager": RequiresActionBy.none_if_owned_by_operator_or_manager}
_INTEGER: Final = 2**31 - 1


class Used(msgspec.Struct, frozen=True, kw_only=True):
    """A code that the log holds: how many logs, and its current kept definition, or as much as the logs themselves say.

    `kept` has the members of `kept()`; of a code whose definition was never kept, only `type` and `level`.
    """

    key: str
    code: str
    logs: int
    kept: Mapping[str, Any]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """A code of the log that the registry no longer has (`removed`), or has otherwise (`contradicted`)."""

    key: str
    code: str
    finding: str
    logs: int
    message: str


def kept(code: Code) -> dict[str, Any]:
    """A definition as plain JSON values, with everything that folding its logs again takes."""
    facts = code.facts()
    return facts | {
        "order": max(-_INTEGER, min(code.order, _INTEGER)),
        # PostgreSQL takes no NUL, and a description must not cost the events of its code.
        "description": code.description.replace("\x00", "\N{REPLACEMENT CHARACTER}"),
        "creates_case": code.creates_case,
        "starts_timer": code.starts_timer,
        "cancels_timer": code.cancels_timer,
        "distinguished_by": list(code.distinguished_by),
    }


def restored(facts: Mapping[str, Any]) -> Code:
    """The code that `kept` gave these facts of.

    A rule of an organisation's own for `requires_action_by` is lost with its code: that column is then left alone.
    """
    action = facts["set_requires_action_by"]
    rule = None if action is None or "rule" not in action else _RULES.get(action["rule"])
    value = None if action is None else action.get("set")
    return Code(
        key=facts["key"],
        code=facts["code"],
        type=LogType(facts["type"]),
        level=LogLevel(facts["level"]),
        selectable_by=tuple(Role(role) for role in facts["selectable_by"]),
        description=facts["description"],
        stops_timer=facts["stops_timer"],
        order=facts["order"],
        touches_requires_action=action is not None and (rule is not None or "set" in action),
        set_requires_action_by=rule or (None if value is None else RequiresActionBy(value)),
        creates_case=facts["creates_case"],
        starts_timer=facts["starts_timer"],
        cancels_timer=facts["cancels_timer"],
        distinguished_by=tuple(facts["distinguished_by"]),
    )


def check(registry: EventRegistry, used: Iterable[Used]) -> list[Finding]:
    """What the registry takes from codes that the log has used, or changes of them, sorted by key and code.

    Two different callables of one name for `set_requires_action_by` are not told apart.
    """
    registered = {(code.key, code.code): code for code in registry.codes()}
    findings = []
    for use in sorted(used, key=lambda use: (use.key, use.code)):
        code = registered.get((use.key, use.code))
        if code is None:
            message = "is no longer registered. Register it again; selectable_by can keep people from choosing it"
            findings.append(_finding(use, "removed", message))
            continue
        now = kept(code)
        changed = [name for name in FOLDED if name in use.kept and use.kept[name] != now[name]]
        if changed:
            what = ", ".join(f"{name} was {_word(use.kept[name])} and is {_word(now[name])}" for name in changed)
            message = f"would fold otherwise: {what}. Leave it as it was, and register a new code for the new meaning"
            findings.append(_finding(use, "contradicted", message))
    return findings


def _finding(use: Used, finding: str, message: str) -> Finding:
    return Finding(
        key=use.key,
        code=use.code,
        finding=finding,
        logs=use.logs,
        message=f"{finding}: {use.key}/{use.code}, used by {count_of(use.logs, 'log')}, {message}.",
    )


def _word(value: Any) -> str:
    if value is None:
        return "left alone"
    if isinstance(value, list):
        return ", ".join(value) or "nothing"
    if isinstance(value, dict):
        return f"the rule {value['rule']}" if "rule" in value else str(value["set"] or "nobody")
    return str(value)
