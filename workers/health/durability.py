"""Whether the servers keep what they confirmed: what docs/reliability.md requires of them, asked of themselves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec
import redis

from caselog.schema.sessions.replication import Standbys
from caselog.schema.sessions.server import ServerState
from caselog.workers.servers.redis_client import impatient

ASKED_WITHIN_S: Final = 2
KEEPS_ALL: Final = "noeviction"
UNKNOWN: Final = "unknown"
COMMITS_WAIT: Final = "commits wait for a synchronous standby"
# How each is called where the broker and the rest are two, and what is there to be lost.
BROKER: Final = "Redis of CASELOG_BROKER_URL"
OTHER: Final = "Redis of CASELOG_REDIS_URL"
OF_BROKER: Final = "events"
OF_OTHER: Final = "jobs, reads and what continuity remembers"
_POSTGRES_FAULT: Final = {
    "fsync": "a crash of its machine ruins the database",
    "synchronous_commit": "a crash of the server loses what was just recorded, and acked to the broker",
    "full_page_writes": "a crash of its machine may ruin pages of the database",
}


class Keeping(msgspec.Struct):
    """Of one server: its settings in words, and where they lose events, what is wrong and what to do."""

    words: str
    faults: list[str] = []
    remedies: list[str] = []


def judge_postgres(state: ServerState) -> Keeping:
    """`synchronous_commit` may have any value but off: each of the others waits for this server's own disk."""
    values = {name: getattr(state, name) for name in _POSTGRES_FAULT}
    keeping = Keeping("PostgreSQL: " + ", ".join(f"{name} {value}" for name, value in values.items()))
    for name, value in values.items():
        if value == "off":
            keeping.faults.append(f"PostgreSQL has {name} off: {_POSTGRES_FAULT[name]}")
            keeping.remedies.append(
                f"alter system set {name} = on; select pg_reload_conf() (or where the server, database or role sets it)"
            )
    return keeping


def judge_replication(found: Standbys) -> tuple[str, bool]:
    """What is to be said of the standbys, and whether that is a warning.

    A failover would lose what is confirmed; or nothing is recorded, because each commit waits for who is not there.
    """
    if found.hanging or (found.expects_synchronous and not found.synchronous and not found.hidden):
        how = f"{found.synchronous} synchronous" if found.synchronous else "no synchronous standby is connected"
        of = f" (of {found.total})" if found.total else ""
        return f"warning: {COMMITS_WAIT} that synchronous_standby_names names, and {how}{of}", True
    if found.total == 0:
        return "no standby", False
    many = f"{found.total} standby{'' if found.total == 1 else 's'}"
    lag = "" if found.lag_bytes is None else f", up to {found.lag_bytes:,} bytes behind"
    lag += "" if found.lag_s is None else f" ({found.lag_s:.1f} s)"
    if found.synchronous:
        return f"{many}, {found.synchronous} synchronous{lag}", False
    if found.hidden and found.expects_synchronous:
        return f"{many}; how far behind, and whether synchronous, only a role with pg_monitor may see", False
    why = "a failover loses what it lags behind; set synchronous_standby_names"
    return f"warning: {many}, none synchronous{lag}: {why}", True


def ask_redis(url: str, called: str = "Redis", *, loses: str = OF_BROKER) -> Keeping:
    """Ask a Redis at its URL, as `ask_client`. Raises `redis.RedisError` where it does not answer."""
    with impatient(url, within_s=ASKED_WITHIN_S) as client:
        return ask_client(client, called, loses=loses)


def ask_client(client: redis.Redis, called: str = "Redis", *, loses: str = OF_BROKER) -> Keeping:
    """Ask the Redis of this client what it keeps of `loses`. Raises `redis.RedisError` where it does not answer.

    What it does not let us ask is unknown, and nothing is held against it: a managed Redis forbids CONFIG, and some
    leave lines out of INFO.
    """
    client.ping()
    persistence, memory = _info(client, "persistence"), _info(client, "memory")
    config = {**_config(client, "append*"), **_config(client, "maxmemory-policy")}
    told = str(persistence.get("aof_enabled"))
    aof = {"0": "no", "1": "yes"}.get(told) or config.get("appendonly", UNKNOWN)
    fsync = config.get("appendfsync", UNKNOWN)
    policy = str(memory.get("maxmemory_policy", config.get("maxmemory-policy", UNKNOWN)))
    keeping = Keeping(f"{called}: appendonly {aof}, appendfsync {fsync}, maxmemory-policy {policy}")
    where = "in redis.conf" if called == "Redis" else f"in redis.conf of the {called}"
    if aof == "no":
        keeping.faults.append(
            f"{called} keeps no append-only file: a kill of it loses what was not yet saved of {loses}"
        )
        keeping.remedies.append(f"appendonly yes and appendfsync always {where} (config set, then config rewrite)")
    elif fsync == "no":
        keeping.faults.append(f"{called} leaves it to the kernel when its append-only file is on the disk")
        keeping.remedies.append(f"appendfsync always {where} (config set, then config rewrite)")
    if policy not in {KEEPS_ALL, UNKNOWN}:
        keeping.faults.append(f"{called} may evict {loses} when it is full (maxmemory-policy {policy})")
        keeping.remedies.append(f"maxmemory-policy {KEEPS_ALL} {where} (config set, then config rewrite)")
    return keeping


def ask_all_redis(broker_url: str, client: redis.Redis) -> list[Keeping]:
    """Of the Redis that is the broker, and of the one of `client` (jobs, memory and reads), where it is another."""
    if not broker_url.startswith("redis"):  # of RabbitMQ's queues caselog says itself what they keep
        return [_or_unknown(lambda: ask_client(client, OTHER, loses=OF_OTHER), OTHER)]
    with impatient(broker_url, within_s=ASKED_WITHIN_S) as broker:
        is_one = _place(broker) == _place(client)
    if is_one:
        return [_or_unknown(lambda: ask_redis(broker_url), "Redis")]
    return [
        _or_unknown(lambda: ask_redis(broker_url, BROKER), BROKER),
        _or_unknown(lambda: ask_client(client, OTHER, loses=OF_OTHER), OTHER),
    ]


def _or_unknown(ask: Callable[[], Keeping], called: str) -> Keeping:
    try:
        return ask()
    except redis.RedisError:  # that it is away is for other checks to say
        return Keeping(f"{called}: unknown, it does not answer")


def _place(client: redis.Redis) -> tuple[Any, ...]:
    """Where the server is; all databases of one server are kept alike."""
    told = client.connection_pool.connection_kwargs
    return tuple(told.get(name) for name in ("path", "host", "port"))


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    try:
        found: dict[str, Any] = client.info(section)
    except redis.ResponseError:  # not permitted, or renamed
        return {}
    return found


def _config(client: redis.Redis, pattern: str) -> dict[str, str]:
    try:
        found = client.config_get(pattern)
    except redis.ResponseError:
        return {}
    return {_text(name): _text(value) for name, value in found.items()}


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
