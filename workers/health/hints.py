"""What to do where a check of health is red, and what it asks for where it is green."""

from __future__ import annotations

from typing import Final

DATABASE_AWAY: Final = "Check that PostgreSQL runs and CASELOG_DATABASE_URL; until then nothing is lost, events wait"
BROKER_AWAY: Final = "Check that the broker runs and CASELOG_BROKER_URL; until then publishers get errors"
REDIS_AWAY: Final = "Check that Redis runs, takes writes and CASELOG_REDIS_URL; until then reports are not added up"
STANDBY: Final = (
    "Point CASELOG_DATABASE_URL at the primary (several hosts with target_session_attrs=read-write find it), or "
    "promote this one; until then nothing is lost, events wait"
)
READ_ONLY: Final = (
    "See what makes it read-only (default_transaction_read_only of server, database or role; a failover) and undo it; "
    "until then nothing is lost, events wait, and no worker needs a restart afterwards"
)
DURABILITY_UNKNOWN: Final = "See the checks database and broker: who does not answer cannot be asked what it keeps"
CONTINUOUS: Final = "all is there that was recorded, on the server that is known or its successor"
REPLICATED: Final = "where there are standbys, one is synchronous; and those that commits wait for are there"
SYNCHRONOUS_AWAY: Final = (
    "PostgreSQL lets commits wait for a synchronous standby that is not there: start it, or take it out of "
    "synchronous_standby_names (pg_reload_conf()); workers then go on by themselves"
)
WHEN_AWAY: Final = {
    "database": DATABASE_AWAY,
    "broker": BROKER_AWAY,
    "redis": REDIS_AWAY,
    "disk": "See that the status worker may read the directory of CASELOG_DATA_DIR",
    "recorder": REDIS_AWAY,
    "tasks": REDIS_AWAY,
    "queue": BROKER_AWAY,
    "removals": BROKER_AWAY,
    "aggregates": DATABASE_AWAY,
    "dead_letters": DATABASE_AWAY,
    "rebuild": DATABASE_AWAY,
    "durability": DURABILITY_UNKNOWN,
    "continuity": "See the checks database and redis: whether something is missing is known once both answer",
    "replication": DATABASE_AWAY,
}
