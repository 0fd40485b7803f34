"""Finding cases by what an operator types: any part of `search_field`, in any case, with or without dashes.

Both sides are made comparable by the database's function `search_key` (lower case, no dashes, no blanks), and by
nothing else. Its two indexes answer: by the beginning, and by any three letters or digits in a row (trigrams).
"""

from __future__ import annotations

import re
from typing import Any, Final

import msgspec
from sqlalchemy import Connection, text

from caselog.events.errors import CaselogError

# The index of parts holds runs of three. A shorter text has none, and looking for it anywhere would read every case.
SHORTEST_PART: Final = 3
# So many of the cases that hold the text are looked at for the best. Whoever finds more than that has typed too little.
CANDIDATES: Final = 1000
COLUMNS: Final = ("reference", "state", "category", "provider", "created_at")


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """The best matches, one dict of COLUMNS a case.

    `only_beginnings`: the text is too short for other matches. `cut`: there are or may be more.
    """

    cases: list[dict[str, Any]]
    only_beginnings: bool
    cut: bool


def search_cases(db: Connection, searched: str, limit: int) -> Found:
    """The cases that match best: those whose reference it is, then those that begin with it, then those that hold it.

    Within these, by reference. `%` and `_` are nothing special. Raises `CaselogError` for a text without any content.
    """
    # An argument that is no UTF-8 arrives as lone surrogates, which no case can hold.
    readable = searched.encode(errors="replace").decode().replace("\x00", "")
    key: str = db.execute(text("select search_key(:searched)"), {"searched": readable}).scalar_one()
    if not key:
        raise CaselogError("there is nothing to search for: give part of a reference, such as AB-1234")
    literal = re.sub(r"([\\%_])", r"\\\1", key)
    only_beginnings = not re.search(rf"[^\W_]{{{SHORTEST_PART}}}", key)
    bound = {"key": key, "beginning": f"{literal}%", "part": f"%{literal}%", "limit": limit + 1}
    rows = {row["reference"]: row for row in db.execute(_BEGINNINGS, bound).mappings()}
    if len(rows) <= limit and not only_beginnings:
        holding = db.execute(_PARTS, bound | {"candidates": CANDIDATES}).mappings()
        rows |= {row["reference"]: row for row in holding}
    found = sorted(rows.values(), key=lambda row: (row["rank"], row["reference"]))
    return Found(
        cases=[{name: row[name] for name in COLUMNS} for row in found[:limit]],
        only_beginnings=only_beginnings,
        cut=len(rows) > limit,
    )


_RANKED: Final = f"""
    select {", ".join(COLUMNS)},
           case when :key in (search_key(search_field), search_key(reference)) then 0
                when search_key(search_field) like :beginning then 1 else 2 end as rank
"""
# The shortest key that begins with the text comes first in this order: the case itself, where the text is all of it.
_BEGINNINGS: Final = text(
    f"""
    {_RANKED} from "case" where search_key(search_field) like :beginning
    order by search_key(search_field) using ~<~, reference limit :limit
    """
)
_PARTS: Final = text(
    f"""
    {_RANKED} from (
        select * from "case" where search_key(search_field) like :part limit :candidates
    ) as holding
    order by rank, reference limit :limit
    """  # noqa: S608 - our own columns
)


def merge_new_cases(db: Connection) -> int:
    """Merge the cases that the index of parts only lists so far: a search reads all of that list. Returns its pages.

    Does nothing where the index is not ours: then who writes merges, whenever 4 MB are listed.
    """
    merged: int | None = db.execute(_MERGE).scalar_one_or_none()
    return merged or 0


_MERGE: Final = text(
    """
    select gin_clean_pending_list(oid) from pg_class
    where oid = to_regclass('case_search_part_idx') and pg_has_role(relowner, 'usage')
    """
)
