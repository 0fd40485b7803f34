"""Every setting, read from the environment here and nowhere else (docs/deploy.md "The settings that matter")."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from caselog.events import credentials
from caselog.events.calendar.bank_holidays import DEFAULT_REGION, bank_holidays
from caselog.events.calendar.opening_hours import DEFAULT_HOURS, OpeningHours
from caselog.events.calendar.working_time import WorkingTime
from caselog.events.errors import SettingsError
from caselog.events.model.registry import BUNDLED_APPS
from caselog.events.transport.urls import (
    BROKER_SCHEMES,
    POSTGRES_SCHEMES,
    REDIS_SCHEMES,
    BadUrl,
    passwords_of,
    read_url,
    read_urls,
)
from caselog.events.transport.urls import shown as url_shown
from caselog.workers.policy import host_names
from caselog.workers.policy.tokens import TokenRole, Tokens
from caselog.workers.policy.trusted_proxy import TrustedProxy
from caselog.workers.process import crash_points
from caselog.workers.rows.targets import BadTarget, plain_url

Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """The settings in force. Each field is the variable `CASELOG_<FIELD>`; its description is what `--help` says."""

    model_config = SettingsConfigDict(env_prefix="CASELOG_", extra="ignore", frozen=True)

    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL, several hosts as postgresql://u@h1:p1,h2:p2/db or /db?host=h1,h2; "
        "unset: the embedded server on the data dir",
    )
    database_direct_url: SecretStr | None = Field(
        None,
        description="PostgreSQL past a pooler in transaction mode, for verify, rebuild, relay and migrate; "
        "unset: CASELOG_DATABASE_URL",
    )
    broker_url: SecretStr | None = Field(
        None, description="Redis or RabbitMQ, its nodes as amqp://a;amqp://b;amqp://c; unset: the embedded Redis"
    )
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
    http_hosts: Words = Field(
        (), description="names and addresses, besides loopback ones, by which the status worker may be asked"
    )
    reading: Literal["", "open", "token"] = Field(
        "",
        description="who may read over HTTP: open, everybody; token, who has a token or whom the proxy vouches for; "
        "unset: open while CASELOG_HTTP_HOST is loopback, else token",
    )
    metrics: Literal["open", "token"] = Field("open", description="token: /metrics takes a token as the pages do")
    api_tokens: SecretStr = Field(
        SecretStr(""),
        description="who may read and act over HTTP: name:roles[@provider]:secret, … with the roles reader, personal, "
        "operator, publisher, eraser",
    )
    trusted_proxy: str = Field(
        "",
        description="a proxy that says who asks: addresses=10.1.2.3,… user=HEADER roles=HEADER; the Host that it hands "
        "on is a loopback name or one of CASELOG_HTTP_HOSTS; unset: none",
    )
    read_retention_days: int = Field(
        0, ge=0, le=36_500, description="days after which the audit forgets who read what; 0: never"
    )
    batch_events: int = Field(2000, ge=1, le=10_000, description="events a transaction at most")
    batch_age_ms: int = Field(
        20, ge=0, le=10_000, description="milliseconds after which a batch waits for no message more, while more come"
    )
    fold_limit_s: int = Field(
        30,
        ge=1,
        le=30,
        description="seconds of processor time that an event's rules may take (twice: a dead letter), and seconds "
        "after which a batch that is still folded is halved",
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
    accept_loss: bool = Field(
        default=False,
        description="1: servers that may lose what they confirmed are a warning of the check durability, and not red",
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

    # For /ping.json (docs/rules.md §8): set by whoever builds the image.
    version_number: str | None = Field(None, description="shown by /ping.json")
    build_date: str | None = Field(None, description="shown by /ping.json")
    commit_id: str | None = Field(None, description="shown by /ping.json")
    build_tag: str | None = Field(None, description="shown by /ping.json")

    @field_validator("apps", "search_context", "http_hosts", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("api_tokens")
    @classmethod
    def _tokens(cls, value: SecretStr) -> SecretStr:
        Tokens.parse(value.get_secret_value())
        return value

    @field_validator("http_host")
    @classmethod
    def _listened_on(cls, value: str) -> str:
        if not value.strip():
            raise ValueError(
                "it is empty, which would be every address: unset it to listen on 127.0.0.1, or set 0.0.0.0 or ::"
            )
        return value

    @field_validator("http_hosts")
    @classmethod
    def _names(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(host_names.check_name(name) for name in value)

    @field_validator("trusted_proxy")
    @classmethod
    def _proxy(cls, value: str) -> str:
        TrustedProxy.parse(value)
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
        crash_points.parse(value)
        return value

    @field_validator("database_url", "database_direct_url", "broker_url", "redis_url")
    @classmethod
    def _url(cls, value: SecretStr | None, info: Any) -> SecretStr | None:
        if value is None or not value.get_secret_value():
            return None
        text = value.get_secret_value()
        try:
            match info.field_name:
                case "broker_url":
                    read_urls(text, BROKER_SCHEMES)
                case "redis_url":
                    read_url(text, REDIS_SCHEMES)
                case _:
                    _check_database(text)
        except BadUrl as error:
            raise ValueError(str(error)) from None
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
    def proxy(self) -> TrustedProxy | None:
        """Whose word counts on who asks; None: nobody's."""
        return TrustedProxy.parse(self.trusted_proxy)

    @property
    def is_reading_open(self) -> bool:
        """Whether everybody reads who reaches the port by a name of ours."""
        return self.reading == "open" or (not self.reading and host_names.is_loopback(self.http_host))

    @property
    def reading_in_words(self) -> str:
        """Who may read over HTTP: "open: whoever …"."""
        if self.is_reading_open:
            return "open: whoever reaches the address may read everything; CASELOG_READING=token closes it"
        if self.tokens.include(TokenRole.READER):
            word = "" if self.proxy is None else ", or the word of CASELOG_TRUSTED_PROXY"
            return f"closed: it takes a token of CASELOG_API_TOKENS{word}"
        if self.proxy is not None:
            return "closed: it takes the word of CASELOG_TRUSTED_PROXY"
        return "closed, and nobody may read: CASELOG_API_TOKENS names no reader"

    @property
    def exports(self) -> str:
        """Where exports go unless they are asked for elsewhere: an absolute path, or a URL without credentials."""
        return self.export_url or plain_url(str(self.data_dir / "exports"))

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.time_zone)

    @property
    def working_time(self) -> WorkingTime:
        """By these settings (docs/rules.md §6.1). Keep it while you count: it remembers the years that it laid out."""
        return WorkingTime(OpeningHours.parse(self.opening_hours), bank_holidays(self.bank_holidays), self.zone)


def load_settings() -> Settings:
    """The settings from the environment. Raises `SettingsError`: one line that names each variable with a bad value."""
    try:
        settings = Settings()
    except ValidationError as error:
        faults = [
            f"CASELOG_{str(fault['loc'][0]).upper()}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_input=False, include_url=False)
        ]
        raise SettingsError("; ".join(faults)) from None
    credentials.keep(secrets_of(settings))
    return settings


def secrets_of(settings: Settings) -> set[str]:
    """The passwords and tokens in the settings, as they are: what no message, log line or page may hold."""
    values = {name: getattr(settings, name) for name in type(settings).model_fields}
    urls = [value for name, value in values.items() if isinstance(value, SecretStr) and name != "api_tokens"]
    secrets = {password for url in urls for password in passwords_of(url.get_secret_value())}
    return secrets.union(Tokens.secrets_in(settings.api_tokens.get_secret_value()))


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
        elif name == "reading":
            text = "open" if settings.is_reading_open else "token"  # what is in force, also where it is not set
        elif isinstance(value, SecretStr):
            text = url_shown(value.get_secret_value())
        else:
            text = ",".join(value) if isinstance(value, tuple) else "" if value is None else str(value)
        rows.append((f"CASELOG_{name.upper()}", text, name in settings.model_fields_set, field.description or ""))
    return rows


def _check_database(text: str) -> None:
    """Raises `BadUrl`."""
    if "?" not in text:
        read_url(text, POSTGRES_SCHEMES)
    else:
        from caselog.schema.sessions.database_url import check_database_url  # noqa: PLC0415 - it takes the driver along

        check_database_url(text)
