"""Every setting, read from the environment here and nowhere else (DESIGN.md "Settings")."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from events.bank_holidays import DEFAULT_REGION, bank_holidays
from events.errors import SettingsError
from events.opening_hours import DEFAULT_HOURS, OpeningHours
from events.registry import BUNDLED_APPS
from events.working_time import WorkingTime
from workers import crashing
from workers.export_target import BadTarget, plain_url
from workers.tokens import Tokens

BROKER_SCHEMES = ("redis", "rediss", "redis+socket", "amqp", "amqps")
REDIS_SCHEMES = ("redis", "rediss", "redis+socket")

Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """The settings in force. Each field is the variable `CASELOG_<FIELD>`; its description is what `--help` says."""

    model_config = SettingsConfigDict(env_prefix="CASELOG_", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(None, description="PostgreSQL; unset: the embedded server on the data dir")
    broker_url: SecretStr | None = Field(None, description="Redis or RabbitMQ; unset: the embedded Redis")
    redis_url: SecretStr | None = Field(
        None, description="for jobs and heartbeats; unset: the broker where it is Redis"
    )
    apps: Words = Field(BUNDLED_APPS, description="packages whose events.py is imported, separated by commas")
    data_dir: Path = Field(Path(".caselog"), description="where the embedded servers keep their data")
    time_zone: str = Field("Europe/London", description="what 'same day' and report days mean")
    opening_hours: str = Field(DEFAULT_HOURS, description="when operators work: working minutes are counted inside")
    bank_holidays: str = Field(DEFAULT_REGION, description="whose bank holidays are no working days; none: nobody's")
    search_context: Words = Field((), description="context values of CASE_CREATED that join the search field")
    http_host: str = Field("127.0.0.1", description="address on which the status worker listens")
    http_port: int = Field(8080, ge=1, le=65535, description="port on which the status worker listens")
    api_tokens: SecretStr = Field(
        SecretStr(""), description="who may act over HTTP: name:role:secret, … with role operator or publisher"
    )
    batch_events: int = Field(2000, ge=1, le=10_000, description="events a transaction at most")
    batch_age_ms: int = Field(
        20, ge=0, le=10_000, description="milliseconds after which a batch waits for no message more, while more come"
    )
    future_tolerance_s: int = Field(300, ge=0, description="seconds that an event may be ahead of the database's clock")
    parked_give_up_s: int = Field(
        86_400, ge=0, description="seconds after which a parked event without a case becomes a dead letter"
    )
    breaker_ratio: float = Field(
        0.5, ge=0, le=1, description="part of the newest events that may die before recorders pause; 0: any"
    )
    breaker_count: int = Field(
        1000, ge=0, le=1_000_000, description="newest events of a recorder that its breaker looks at; 0: no breaker"
    )
    health_heartbeat_s: int = Field(
        30, ge=1, le=240, description="seconds without proven work or an empty queue before a worker is red"
    )
    health_disk_free_percent: float = Field(2.0, ge=0, lt=100, description="free disk below which health turns red")
    health_queue_age_s: int = Field(60, ge=1, description="oldest raw event in seconds before health turns red")
    health_outbox_age_s: int = Field(30, ge=1, description="oldest report delta in seconds before health turns red")
    health_dead_letter_s: int = Field(
        3600, ge=0, description="a dead letter newer than this many seconds turns health red; 0: never"
    )
    dead_letter_retention_days: int = Field(
        0, ge=0, le=36_500, description="days after which dead letters are discarded, with an audit entry; 0: never"
    )
    export_url: str = Field(
        "",
        description="directory or URL (s3://bucket/path) of exports in the background; unset: exports in the data dir",
    )
    export_retention_days: int = Field(
        7, ge=0, le=36_500, description="days after which exported files are deleted, with an audit entry; 0: never"
    )
    operator: str = Field(
        "", max_length=100, description="who the audit says did what is done by hand; unset: the system's user name"
    )

    crash_at: str = Field("", description="for tests: name[:nth], a point where the process kills itself; unset: never")

    # For /ping.json (RULES.md §8): set by whoever builds the image.
    version_number: str | None = Field(None, description="shown by /ping.json")
    build_date: str | None = Field(None, description="shown by /ping.json")
    commit_id: str | None = Field(None, description="shown by /ping.json")
    build_tag: str | None = Field(None, description="shown by /ping.json")

    @field_validator("apps", "search_context", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("api_tokens")
    @classmethod
    def _tokens(cls, value: SecretStr) -> SecretStr:
        Tokens.parse(value.get_secret_value())
        return value

    @field_validator("time_zone")
    @classmethod
    def _zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ValueError, OSError, LookupError):
            raise ValueError("expected a time zone of the IANA database, such as Europe/London") from None
        return value

    @field_validator("opening_hours")
    @classmethod
    def _hours(cls, value: str) -> str:
        OpeningHours.parse(value)
        return value

    @field_validator("bank_holidays")
    @classmethod
    def _region(cls, value: str) -> str:
        bank_holidays(value)
        return value

    @field_validator("export_url")
    @classmethod
    def _target(cls, value: str) -> str:
        try:
            return plain_url(value) if value else value
        except BadTarget as error:
            raise ValueError(str(error)) from None

    @field_validator("crash_at")
    @classmethod
    def _crash_point(cls, value: str) -> str:
        crashing.parse(value)
        return value

    @field_validator("database_url", "broker_url", "redis_url")
    @classmethod
    def _url(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        schemes = {
            "database_url": ("postgresql", "postgres", "postgresql+psycopg"),
            "broker_url": BROKER_SCHEMES,
            "redis_url": REDIS_SCHEMES,
        }[info.field_name]
        scheme, separator, _ = value.get_secret_value().partition("://")
        if not separator or scheme not in schemes:
            raise ValueError(f"expected a URL that starts with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        return value

    @property
    def who(self) -> str:
        """Who the audit says did it: CASELOG_OPERATOR, or the user as whom this process runs."""
        if self.operator.strip():
            return self.operator.strip()
        try:
            return pwd.getpwuid(os.getuid()).pw_name
        except KeyError:  # a container may run as a number that has no name
            return f"uid {os.getuid()}"

    @property
    def tokens(self) -> Tokens:
        """Who may do what over HTTP."""
        return Tokens.parse(self.api_tokens.get_secret_value())

    @property
    def exports(self) -> str:
        """Where exports go unless they are asked for elsewhere: an absolute path, or a URL without credentials."""
        return self.export_url or plain_url(str(self.data_dir / "exports"))

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def working_time(self) -> WorkingTime:
        """RULES.md §6 with these settings. Keep it while you count: it remembers each year that it has laid out."""
        return WorkingTime(OpeningHours.parse(self.opening_hours), bank_holidays(self.bank_holidays), self.zone)


def load_settings() -> Settings:
    """The settings from the environment. Raises `SettingsError`: one line that names each variable with a bad value."""
    try:
        return Settings()
    except ValidationError as error:
        faults = [
            f"CASELOG_{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(faults)) from None


def child_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Our environment with these variables set: what a child process is started with."""
    return {**os.environ, **settings}


def shown(settings: Settings) -> list[tuple[str, str, bool, str]]:
    """Each setting as (variable, value, set by the environment, description); of secrets only what is no secret."""
    rows = []
    for name, field in Settings.model_fields.items():
        value = getattr(settings, name)
        if name == "api_tokens":
            text = settings.tokens.masked()
        elif isinstance(value, SecretStr):
            text = _masked(value.get_secret_value())
        else:
            text = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        rows.append((f"CASELOG_{name.upper()}", text, name in settings.model_fields_set, field.description or ""))
    return rows


def _masked(secret: str) -> str:
    """A URL without its password and query; any other secret as stars."""
    scheme, separator, rest = secret.partition("://")
    if not separator:
        return "***" if secret else ""
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    name, colon, _ = user.partition(":")
    plain_path, question, _ = path.partition("?")
    return f"{scheme}://{name}{':***' if colon else ''}{at}{host}{slash}{plain_path}{'?***' if question else ''}"
