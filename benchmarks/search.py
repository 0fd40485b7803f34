"""How long `caselog search` takes in a million cases: python benchmarks/search.py [CASES].

Each case has a reference and a name in its search field. Prints, for texts of every kind, the best and the worst of
a few searches in milliseconds, and what the two indexes cost a case when it is written.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from sqlalchemy import Connection, text

from caselog.schema.migrations.upgrade import migrate
from caselog.schema.operations.search import search_cases
from caselog.schema.sessions.connection import make_engine
from caselog.workers.servers.embedded import EmbeddedServers, uninstall

CASES = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
ROUNDS = 5
INSERT = """
insert into "case" (reference, callback_attempt, billable_time, complaint_flag, search_field, state, created_at)
select reference, 0, 0, false, replace(reference, '-', '') || ' ' || first || ' ' || last || '@example.org', 'new',
       now() - make_interval(mins => number::int)
from generate_series(cast(:first as int), :last) as number,
     lateral (select 'AB-' || lpad(((number * 7919::bigint) % 10000)::text, 4, '0') || '-'
                     || lpad((number / 10000)::text, 4, '0') as reference) as named,
     lateral (select (array['Anna','Bela','Chidi','Dara','Emre','Fatma'])[1 + number % 6] as first,
                     (array['Smith','O''Brien','Nowak','Haddad','Lindqvist'])[1 + number % 5] || number % 5000 as last)
             as called
"""
SEARCHES = {
    "a whole reference": "ab-0042-0017",
    "its beginning": "AB-0042",
    "its end": "2-0017",
    "three digits anywhere": "417",
    "a rare name": "lindqvist4999",
    "a frequent name": "Smith",
    "what every case holds": "example.org",
    "nothing": "zzzzz",
    "a frequent part and a rare one": "smith 4990@",
    "two letters": "ab",
    "wildcards": "%_%",
}


def fill(db: Connection, first: int, last: int) -> float:
    """Insert cases; gives seconds."""
    start = time.perf_counter()
    db.execute(text(INSERT), {"first": first, "last": last})
    db.commit()
    return time.perf_counter() - start


def main() -> None:
    directory = Path(tempfile.mkdtemp(prefix="caselog-search-"))
    servers = EmbeddedServers(directory)
    try:
        urls = servers.start()
        assert urls.database_url is not None
        migrate(urls.database_url)
        engine = make_engine(urls.database_url)
        with engine.connect() as db:
            took_s = fill(db, 1, CASES)
            print(f"{CASES:,} cases written in {took_s:.1f} s with both indexes")
            db.execute(text('analyze "case"'))
            db.commit()
            for what, searched in SEARCHES.items():
                took_ms = []
                for _ in range(ROUNDS):
                    start = time.perf_counter()
                    found = search_cases(db, searched, 20)
                    took_ms.append((time.perf_counter() - start) * 1000)
                print(
                    f"{what:32} {searched:16} {len(found.cases):3} found  {min(took_ms):7.1f} to {max(took_ms):7.1f} ms"
                )
            with_indexes_s = fill(db, CASES + 1, CASES + 20_000)
            db.execute(text("drop index case_search_prefix_idx, case_search_part_idx"))
            without_s = fill(db, CASES + 20_001, CASES + 40_000)
            print(f"the indexes cost {(with_indexes_s - without_s) / 20_000 * 1e6:.0f} µs a case")
        engine.dispose()
    finally:
        servers.stop()
        uninstall(directory)
        shutil.rmtree(directory, ignore_errors=True)


main()
