"""Where PostgreSQL, the broker and Redis are: the settings say so, or they are the embedded servers that run."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import SecretStr

from caselog.events.errors import SettingsError
from caselog.events.transport import urls
from caselog.workers.servers.embedded import EmbeddedUrls, locate
from caselog.workers.settings import Settings


@dataclass(frozen=True)
class Services:
    """The three URLs that every command and worker needs. `repr` hides them: they may hold passwords."""

    database_url: str  # postgresql://
    broker_url: str  # redis://, rediss://, redis+socket://, amqp:// or amqps://, of which it may be a list
    redis_url: str  # redis://, rediss:// or redis+socket://: jobs and heartbeats

    def __repr__(self) -> str:
        return "Services(...)"

    def environment(self) -> dict[str, str]:
        """The settings that give a child process the same services."""
        return {
            "CASELOG_DATABASE_URL": self.database_url,
            "CASELOG_BROKER_URL": self.broker_url,
            "CASELOG_REDIS_URL": self.redis_url,
        }


@dataclass(frozen=True)
class Needs:
    """Which embedded servers the settings call for."""

    postgres: bool
    redis: bool


def needs(settings: Settings) -> Needs:
    """PostgreSQL where no database is named; Redis where no broker is, or no Redis beside RabbitMQ."""
    broker_url = _plain(settings.broker_url)
    return Needs(
        postgres=settings.database_url is None,
        redis=broker_url is None or (settings.redis_url is None and not _is_redis(broker_url)),
    )


def find_services(settings: Settings) -> Services:
    """The services in force. Looks at the sockets of the embedded servers only where a URL is not set.

    Raises `SettingsError`, in one line that says what to start or which variable to set. A URL that is set is not
    tried: a normal return does not promise that its server answers.
    """
    return combine(settings, _running(settings))


def find_database_url(settings: Settings) -> str:
    """As `find_services`, for who needs no broker: a migration, an export, a report."""
    return _database_url(settings, _running(settings))


def find_direct_url(settings: Settings) -> str:
    """As `find_database_url`, for who needs a session of its own, which a pooler in transaction mode does not give."""
    direct_url = _plain(settings.database_direct_url)
    return find_database_url(settings) if direct_url is None else _for_libpq(direct_url)


def find_broker_url(settings: Settings) -> str:
    """As `find_services`, for who needs no database: a producer, a ping."""
    return _broker_url(settings, _running(settings))


def find_redis_url(settings: Settings) -> str:
    """As `find_services`, for who needs Redis alone: what is remembered there."""
    return _redis_url(settings, _running(settings))


def combine(settings: Settings, running: EmbeddedUrls) -> Services:
    """The settings' URLs, and the embedded servers' where there is none. Raises `SettingsError` as `find_services`."""
    broker_url = _broker_url(settings, running)
    return Services(_database_url(settings, running), broker_url, _redis_url(settings, running))


def check_writing(services: Services) -> None:
    """Raises `SettingsError` where the database's URL leads whoever writes to a server that takes no writes."""
    from caselog.schema.sessions import database_url  # noqa: PLC0415 - it takes the driver along

    try:
        database_url.check_writing(services.database_url)
    except urls.BadUrl as error:
        raise SettingsError(f"CASELOG_DATABASE_URL: {error}") from None


def redis_py_url(redis_url: str) -> str:
    """The same Redis as redis-py and dramatiq spell it. Raises `SettingsError`, which names the setting."""
    try:
        return urls.redis_py_url(redis_url)
    except urls.BadUrl as error:
        raise SettingsError(f"CASELOG_REDIS_URL: {error}") from None


def _running(settings: Settings) -> EmbeddedUrls:
    wanted = needs(settings)
    running = locate(settings.data_dir) if wanted.postgres or wanted.redis else None
    return running or EmbeddedUrls(None, None)


def _broker_url(settings: Settings, running: EmbeddedUrls) -> str:
    broker_url = _plain(settings.broker_url) or running.redis_url
    if broker_url is None:
        raise _nowhere("Redis", "CASELOG_BROKER_URL", settings)
    return broker_url


def _redis_url(settings: Settings, running: EmbeddedUrls) -> str:
    broker_url = _plain(settings.broker_url) or ""
    redis_url = _plain(settings.redis_url) or (broker_url if _is_redis(broker_url) else running.redis_url)
    if redis_url is None:
        raise _nowhere("Redis", "CASELOG_REDIS_URL", settings)
    return redis_url


def _database_url(settings: Settings, running: EmbeddedUrls) -> str:
    database_url = _plain(settings.database_url) or running.database_url
    if database_url is None:
        raise _nowhere("PostgreSQL", "CASELOG_DATABASE_URL", settings)
    return _for_libpq(database_url)


def _for_libpq(database_url: str) -> str:
    return database_url.replace("postgresql+psycopg://", "postgresql://", 1)


def _plain(url: SecretStr | None) -> str | None:
    return None if url is None else url.get_secret_value()


def _is_redis(url: str) -> bool:
    return url.partition("://")[0] in urls.REDIS_SCHEMES


def _nowhere(server: str, variable: str, settings: Settings) -> SettingsError:
    return SettingsError(
        f"{variable} is not set, and no embedded {server} runs on {str(settings.data_dir)!r}. "
        f"Start it with: caselog up (or set {variable})"
    )
