"""All that is wrong with a JSON object, told at once to who has to mend it.

Only what is refused is looked at here, member by member; reading what is right costs nothing of it.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from itertools import islice
from typing import Any, Final, Union, get_args, get_origin

import msgspec

# So much of a slip of the pen is alike: one letter of five is another one, or is missing.
_ALIKE: Final = 0.8
# An object may have a hundred thousand members, and each is compared with each right name.
_LOOKED_AT: Final = 20

Words = Mapping[str, Callable[[Any], str]]
"""What is said of a wrong value, by the path of its member; else what it must be, by its type, and what it is."""


def member_faults(members: Mapping[str, Any], kind: type[msgspec.Struct], words: Words, path: str = "") -> list[str]:
    """A phrase for each member that is missing or is not as the struct wants it; of members in members, too.

    Without any value: it may be personal data. Members that the struct does not have are nobody's fault here.
    """
    faults: list[str] = []
    for name, type_, is_required, struct in _fields(kind):
        where = f"{path}.{name}" if path else name
        if name not in members:
            if is_required:
                faults.append(f"{where} is missing")
            continue
        value = members[name]
        if struct is not None and isinstance(value, dict):
            faults += member_faults(value, struct, words, where)
            continue
        try:
            msgspec.convert(value, type_, str_keys=True)
        except msgspec.ValidationError:
            said = words[where](value) if where in words else f"must be {_expected(type_)}, not {_given(value, type_)}"
            faults.append(f"{where} {said}")
    return faults


def kind_of(value: Any) -> str:
    """What a JSON value is, in words, without anything of what it says."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    for kind, word in ((str, "a text"), (int | float, "a number"), (list, "an array")):
        if isinstance(value, kind):
            return word
    return "an object"


def misspelt(members: Mapping[str, Any], known: Collection[str], where: str) -> list[str]:
    """A question for each member that is not known and nearly has the name of one that is, which is not there."""
    absent = [name for name in known if members.get(name) is None]
    unknown = islice((name for name in members if name not in known), _LOOKED_AT)
    return [
        f"{where} has the unknown member {name!r}: did you mean {near[0]!r}?"
        for name in unknown
        if (near := get_close_matches(name.lower(), absent, n=1, cutoff=_ALIKE))
    ]


@lru_cache(maxsize=8)
def _fields(kind: type[msgspec.Struct]) -> tuple[tuple[str, Any, bool, type[msgspec.Struct] | None], ...]:
    """Name, type, whether it is required, and the struct that it may be, of each field of a struct."""
    return tuple(
        (field.encode_name, field.type, field.required, _struct_in(field.type))
        for field in msgspec.structs.fields(kind)
    )


def _expected(type_: Any) -> str:
    """What a member of that type may be, in words."""
    return " or ".join(filter(None, map(_word_of, _options(type_))))


def _word_of(type_: Any) -> str:
    bounds = [meta for meta in getattr(type_, "__metadata__", ()) if isinstance(meta, msgspec.Meta)]
    kind = getattr(type_, "__origin__", type_) if bounds else get_origin(type_) or type_
    if kind is str:
        return _text_of(bounds)
    words = {types.NoneType: "null", list: "an array", bool: "true or false", int: "a number", float: "a number"}
    return words.get(kind, "an object")


def _text_of(bounds: Sequence[msgspec.Meta]) -> str:
    least = next((meta.min_length for meta in bounds if meta.min_length is not None), None)
    most = next((meta.max_length for meta in bounds if meta.max_length is not None), None)
    if most is None:
        return "a text"
    return f"a text of {least} to {most:,} characters" if least else f"a text of at most {most:,} characters"


def _given(value: Any, type_: Any) -> str:
    """What was given instead: another kind of value, or a text of a length that is not allowed."""
    if isinstance(value, str) and any(_word_of(option).startswith("a text") for option in _options(type_)):
        return f"one of {len(value):,}" if value else "an empty one"
    return kind_of(value)


def _options(type_: Any) -> tuple[Any, ...]:
    return get_args(type_) if get_origin(type_) in (Union, types.UnionType) else (type_,)


def _struct_in(type_: Any) -> type[msgspec.Struct] | None:
    return next((one for one in _options(type_) if isinstance(one, type) and issubclass(one, msgspec.Struct)), None)
