"""Settings come from the environment; a bad one is one line that names the variable, and no secret is shown."""

from __future__ import annotations

import os
import pwd
from datetime import UTC, datetime
from pathlib import Path

import pytest

from caselog.events.errors import SettingsError
from caselog.events.model.registry import BUNDLED_APPS
from caselog.workers.settings import Settings, child_environment, load_settings, shown


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("CASELOG_"):
            monkeypatch.delenv(name)


def fault(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> str:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    return str(caught.value)


def test_with_nothing_set_the_defaults_are_those_of_the_design() -> None:
    settings = load_settings()
    assert (settings.database_url, settings.broker_url, settings.redis_url) == (None, None, None)
    assert settings.apps == BUNDLED_APPS
    assert (settings.data_dir, settings.time_zone, settings.http_port) == (Path(".caselog"), "Europe/London", 8080)
    assert settings.future_tolerance_s == 5 * 60


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CASELOG_DATABASE_URL", "mysql://localhost/x"),
        ("CASELOG_DATABASE_URL", "localhost"),
        ("CASELOG_DATABASE_DIRECT_URL", "mysql://localhost/x"),
        ("CASELOG_ACCEPT_LOSS", "perhaps"),
        ("CASELOG_BROKER_URL", "kafka://localhost"),
        ("CASELOG_REDIS_URL", "amqp://localhost"),
        ("CASELOG_TIME_ZONE", "Europe/Londn"),
        ("CASELOG_TIME_ZONE", "/etc/passwd"),
        ("CASELOG_TIME_ZONE", ""),
        ("CASELOG_OPENING_HOURS", ""),
        ("CASELOG_OPENING_HOURS", "mon-fri 9 to 5"),
        ("CASELOG_BANK_HOLIDAYS", ""),
        ("CASELOG_BANK_HOLIDAYS", "England"),
        ("CASELOG_HTTP_PORT", "0"),
        ("CASELOG_HTTP_PORT", "http"),
        ("CASELOG_BATCH_EVENTS", "-1"),
        ("CASELOG_BATCH_AGE_MS", "soon"),
        ("CASELOG_FUTURE_TOLERANCE_S", "-1"),
        ("CASELOG_PARKED_GIVE_UP_S", "1.5"),
        ("CASELOG_EXPORT_URL", "s3://key:secret@bucket/exports"),
        ("CASELOG_EXPORT_URL", "memory://exports"),
        ("CASELOG_EXPORT_RETENTION_DAYS", "-1"),
    ],
)
def test_a_bad_value_is_one_line_that_names_the_variable(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    message = fault(monkeypatch, variable, value)
    assert message.startswith(f"{variable}: ")
    assert "\n" not in message


def test_several_bad_values_are_all_named_in_the_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASELOG_BATCH_EVENTS", "none")
    message = fault(monkeypatch, "CASELOG_HTTP_PORT", "none")
    assert "CASELOG_BATCH_EVENTS: " in message
    assert "CASELOG_HTTP_PORT: " in message
    assert "\n" not in message


def test_working_time_is_that_of_the_hours_the_bank_holidays_and_the_zone_that_are_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Thursday the 24th of December 2026, 16:30 in Berlin: half an hour that day, and on Friday only if one works."""
    monkeypatch.setenv("CASELOG_TIME_ZONE", "Europe/Berlin")
    monkeypatch.setenv("CASELOG_OPENING_HOURS", "mon-fri 09:00-17:00")
    eve = datetime(2026, 12, 24, 15, 30, tzinfo=UTC)
    assert load_settings().working_time.add_minutes(eve, 60) == datetime(2026, 12, 29, 8, 30, tzinfo=UTC)
    monkeypatch.setenv("CASELOG_BANK_HOLIDAYS", "none")
    assert load_settings().working_time.add_minutes(eve, 60) == datetime(2026, 12, 25, 8, 30, tzinfo=UTC)


def test_a_bad_url_is_refused_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "s3cret" not in fault(monkeypatch, "CASELOG_BROKER_URL", "kafka://user:s3cret@host/1")


HOSTILE = [
    *("Zq7X/Wv9K", "Zq7X@Wv9K", "12/Zq7X:Wv9K", "Zq7X?Wv9K", "Zq7X#Wv9K", "Zq7X%Wv9K", "Zq7X[Wv9K", "Zq7X]Wv9K"),
    *("Zq7X Wv9K", "Zq7Xß漢Wv9K", "Zq7X;Wv9K", "Zq7X&Wv9K", "Zq7X/" * 500, ":@/?#Zq7X%zz[]Wv9K ß", "1?x=Zq7X"),
    "Zq7X://Wv9K",
]


@pytest.mark.parametrize(
    ("variable", "form"),
    [
        ("CASELOG_DATABASE_URL", "postgresql://anna:{}@db.example/x"),
        ("CASELOG_DATABASE_URL", "postgresql://:{}@db1,db2/x?sslmode=require"),
        ("CASELOG_DATABASE_URL", "postgresql://db/x?user=anna&password={}"),
        ("CASELOG_BROKER_URL", "amqp://a:b@mq1/v;amqp://anna:{}@mq2/v;amqp://c:d@mq3/v"),
        ("CASELOG_BROKER_URL", "redis+socket://:{}@/run/redis.sock"),
        ("CASELOG_REDIS_URL", "rediss://{}@r.example:6379/0"),
        ("CASELOG_EXPORT_URL", "s3://key:{}@bucket/exports"),
        ("CASELOG_EXPORT_URL", "ftp://anna:{}@host/exports"),
    ],
)
@pytest.mark.parametrize("password", HOSTILE, ids=range(len(HOSTILE)))
def test_no_piece_of_an_unescaped_password_is_said(
    monkeypatch: pytest.MonkeyPatch, variable: str, form: str, password: str
) -> None:
    monkeypatch.setenv(variable, form.format(password))
    try:
        said = str(shown(load_settings()))
    except SettingsError as error:
        said = str(error)
    else:
        assert "***" in said
        assert variable != "CASELOG_EXPORT_URL"
    assert "\n" not in said
    assert "Zq7X" not in said
    assert "Wv9K" not in said


def test_an_empty_url_is_none_and_so_is_one_that_is_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """`CASELOG_BROKER_URL= caselog …` in a compose file with an empty variable."""
    monkeypatch.setenv("CASELOG_BROKER_URL", "")
    assert load_settings().broker_url is None


def test_lists_are_separated_by_commas_and_spaces_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASELOG_APPS", " examples.helpdesk , caselog.events.apps.timer,, ")
    assert load_settings().apps == ("examples.helpdesk", "caselog.events.apps.timer")


def test_variables_that_are_no_settings_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASELOG_TEST_AMQP_URL", "amqp://localhost")
    load_settings()


@pytest.mark.parametrize(
    ("variable", "value", "visible"),
    [
        (
            "CASELOG_DATABASE_URL",
            "postgresql://anna:s3cret@db/x?sslpassword=s3cret",
            "postgresql://anna:***@db/x?sslpassword=***",
        ),
        ("CASELOG_DATABASE_URL", "postgresql://anna:s3c%40ret@db/x", "postgresql://anna:***@db/x"),
        ("CASELOG_BROKER_URL", "amqp://anna:s3cret@mq:5672/v", "amqp://anna:***@mq:5672/v"),
        ("CASELOG_BROKER_URL", "redis://:s3cret@r:6379/0", "redis://:***@r:6379/0"),
        ("CASELOG_REDIS_URL", "redis+socket:///run/r.sock?password=s3cret", "redis+socket:///run/r.sock?password=***"),
        (
            "CASELOG_API_TOKENS",
            "anna:operator:s3cret-s3cret-s3cret, app:publisher://s3cret-s3cret-s3cret",
            "anna:operator:***,app:publisher:***",
        ),
        ("CASELOG_DATABASE_URL", "postgresql://db/x", "postgresql://db/x"),
        (
            "CASELOG_DATABASE_URL",
            "postgresql://anna:s3cret@db1:5432,db2:5433/x?target_session_attrs=read-write",
            "postgresql://anna:***@db1:5432,db2:5433/x?target_session_attrs=read-write",
        ),
        (
            "CASELOG_DATABASE_URL",
            "postgresql://anna:s3cret@/x?host=db1,db2&port=5432,5433",
            "postgresql://anna:***@/x?host=db1,db2&port=5432,5433",
        ),
        (
            "CASELOG_BROKER_URL",
            "amqp://anna:s3cret@a/v;amqps://berta:s3cret2@b:5671/v;amqp://c:s3cret3@c/v",
            "amqp://anna:***@a/v;amqps://berta:***@b:5671/v;amqp://c:***@c/v",
        ),
        ("CASELOG_REDIS_URL", "redis://s3cret@r/0", "redis://***@r/0"),
    ],
)
def test_secrets_are_masked_and_the_rest_of_the_url_is_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, visible: str
) -> None:
    monkeypatch.setenv(variable, value)
    rows = {row[0]: row for row in shown(load_settings())}
    assert rows[variable][1:3] == (visible, True)
    assert "s3c" not in repr(load_settings())
    assert "s3c" not in str(rows)


def test_every_setting_is_shown_with_what_it_means() -> None:
    rows = shown(load_settings())
    assert {row[0] for row in rows} == {f"CASELOG_{name.upper()}" for name in Settings.model_fields}
    assert all(description for *_, description in rows)
    assert not any(is_set for _, _, is_set, _ in rows)


def test_a_child_gets_our_environment_with_its_settings_on_top(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CASELOG_APPS", "examples.helpdesk")
    given = child_environment({"CASELOG_BROKER_URL": "redis://r"})
    assert given["CASELOG_APPS"] == "examples.helpdesk"
    assert given["CASELOG_BROKER_URL"] == "redis://r"
    assert "CASELOG_BROKER_URL" not in os.environ


def test_who_acts_is_who_the_setting_names_or_else_the_user_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the user whom an environment claims: LOGNAME and USER are anybody's to set."""
    monkeypatch.setenv("LOGNAME", "somebody else")
    monkeypatch.setenv("USER", "somebody else")
    assert load_settings().who == pwd.getpwuid(os.getuid()).pw_name
    monkeypatch.setenv("CASELOG_OPERATOR", " anna ")
    assert load_settings().who == "anna"


def test_exports_go_to_the_data_directory_unless_a_url_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By an absolute path: the worker that writes them runs elsewhere."""
    monkeypatch.chdir(tmp_path)
    assert load_settings().exports == str(tmp_path / ".caselog" / "exports")
    monkeypatch.setenv("CASELOG_EXPORT_URL", "s3://bucket/exports/")
    assert load_settings().exports == "s3://bucket/exports"
