"""The standbys of the server that answers: whether one of them is synchronous, and how far they are behind."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, text

from caselog.schema.sessions.server import in_a_new_session


class Standbys(msgspec.Struct, frozen=True, kw_only=True):
    """Standbys that are connected now. Of those whose details this role may not see, only the number is known.

    `lag_bytes` is what the standby furthest behind has not yet on its disk, and would lack if it were promoted now;
    `lag_s` is how long that one with the longest delay took for the newest it has replayed. None: nobody can see it.
    `expects_synchronous`: commits wait for a synchronous standby. `hanging`: commits that have waited for one for some
    seconds, in sessions of this role (with pg_monitor of all).
    """

    synchronous: int = 0
    asynchronous: int = 0
    hidden: int = 0
    expects_synchronous: bool = False
    hanging: int = 0
    lag_bytes: int | None = None
    lag_s: float | None = None

    @property
    def total(self) -> int:
        return self.synchronous + self.asynchronous + self.hidden


def find_standbys(db: Connection) -> Standbys:
    """Ask the server. What reads a logical slot, and a base backup, is no standby.

    States and lags are for roles with pg_monitor (or pg_read_all_stats); how many there are, anybody may see.
    """
    row = db.execute(
        text(
            f"""
            select count(*) filter (where sync_state in ('sync', 'quorum')) as synchronous,
                   count(*) filter (where sync_state in ('async', 'potential')) as asynchronous,
                   count(*) filter (where state is null) as hidden,
                   current_setting('synchronous_standby_names') <> ''
                       and {in_a_new_session("synchronous_commit")} not in ('local', 'off') as expects_synchronous,
                   (select count(*) from pg_stat_activity
                    where wait_event = 'SyncRep' and state_change < clock_timestamp() - interval '5 s') as hanging,
                   max(greatest(0, pg_wal_lsn_diff(
                       case when pg_is_in_recovery() then null else pg_current_wal_lsn() end, flush_lsn)))::bigint
                       as lag_bytes,
                   extract(epoch from max(replay_lag))::float8 as lag_s
            from pg_stat_replication
            where (state is null or state in ('streaming', 'catchup'))
              and application_name is distinct from 'pg_basebackup'
              and pid not in (
                select active_pid from pg_replication_slots where slot_type = 'logical' and active_pid is not null
              )
            """  # noqa: S608 - our own
        )
    ).one()
    return Standbys(**row._mapping)  # noqa: SLF001 - SQLAlchemy's documented name
