"""URLs are read strictly, as the libraries would read them, and nothing secret of them is ever said."""

from __future__ import annotations

import re
from contextlib import nullcontext
from typing import Any
from urllib.parse import quote, unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.url import parse_url as as_kombu_reads
from psycopg.conninfo import conninfo_to_dict as as_libpq_reads
from redis.connection import parse_url as as_redis_py_reads
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from caselog.events.errors import SettingsError
from caselog.events.transport.broker import connect
from caselog.events.transport.urls import (
    AMQP_SCHEMES,
    BROKER_SCHEMES,
    POSTGRES_SCHEMES,
    REDIS_SCHEMES,
    BadUrl,
    passwords_of,
    read_url,
    read_urls,
    redis_py_url,
    shown,
)
from caselog.schema.sessions.database_url import check_database_url, check_writing, driver_url, takes_the_first

# No message, host or name has these.
PIECES = ("Zq7X", "Wv9K", "ßüßü", "漢字漢字")
SPECIAL = [*"/@:?#%[] ;&=,'\"\\<>{}|^`~\t\n\u202e0", "://", "%2", "%zz", "@h", ":5432/", "?host=x&", "postgresql://"]
ALL_SCHEMES = (*POSTGRES_SCHEMES, *BROKER_SCHEMES)
hostile = st.lists(st.sampled_from([*PIECES, *SPECIAL]), min_size=1, max_size=30).map("".join)
any_text = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1)

FORMS = (
    "postgresql://anna:{}@db.example:5432/cases",
    "postgresql://:{}@db.example/cases",
    "postgresql://anna:{}@db1:5432,db2:5433/cases?target_session_attrs=read-write",
    "postgresql://anna:{}@/cases?host=db1,db2&port=5432,5433",
    "postgresql://db.example/cases?user=anna&password={}",
    "postgresql://db.example/cases?sslpassword={}&user=anna",
    "postgresql+psycopg://anna:{}@/cases?host=/run/postgresql",
    "redis://anna:{}@r.example:6379/3",
    "redis://:{}@r.example",
    "redis://{}@r.example",
    "rediss://r.example/0?password={}",
    "redis+socket://:{}@/run/redis.sock?virtual_host=2",
    "redis+socket:///run/redis.sock?password={}",
    "amqp://anna:{}@mq.example:5672/v",
    "amqps://:{}@mq.example//",
    "amqp://a:first@mq1/v;amqp://b:{}@mq2/v;amqp://c:third@mq3/v",
    "amqp://a:first@mq1/v;amqp://b:second@mq2/v;amqp://c:{}@mq3/v",
)


def nothing_is_told(text: str) -> None:
    for piece in PIECES:
        for secret in (piece, quote(piece)):
            assert secret not in text, text


@pytest.mark.parametrize("form", FORMS)
@given(password=hostile)
def test_an_unescaped_password_is_refused_or_masked_and_no_piece_of_it_is_told(form: str, password: str) -> None:
    text = form.format(password)
    nothing_is_told(shown(text))
    try:
        read_urls(text, ALL_SCHEMES)
    except BadUrl as error:
        said = str(error)
    else:
        said = ""
    nothing_is_told(said)
    assert "\n" not in said
    assert (shown(text) == "***") == bool(said)


@pytest.mark.parametrize("form", FORMS)
@given(password=hostile)
def test_an_escaped_password_is_read_whole_and_masked(form: str, password: str) -> None:
    text = form.format(quote(password, safe=""))
    urls = read_urls(text, ALL_SCHEMES)
    assert password in {secret for url in urls for secret in url.passwords()} or len(password) <= len("/run/redis.sock")
    nothing_is_told(shown(text))
    nothing_is_told(repr(urls))
    assert ";".join(url.url() for url in urls) == text
    # What is a user, a host or a database of these forms as well is no secret.
    assert passwords_of(text) >= {password} - {"a", "b", "c", "0"} or "=" not in text


@given(user=any_text, password=any_text, database=any_text)
def test_sqlalchemy_is_told_what_libpq_reads(user: str, password: str, database: str) -> None:
    """Its own reader differs: of a plus sign, of an encoded name, and of a list of hosts it knows nothing."""
    parts = [quote(part, safe="") for part in (user, password, database)]
    for form in ("{}:{}@db.example:5433/{}", "{}:{}@/{}?host=/run/a%20b&application_name=a+b", "{}:{}@h1:1,h2,h3:3/{}"):
        text = f"postgresql://{form.format(*parts)}"
        check_database_url(text)
        dialect: Any = PGDialect_psycopg
        _, told = dialect().create_connect_args(driver_url(text))
        read = as_libpq_reads(text)
        if "," in str(read["host"]):  # of several, the one that takes writes
            read = {**read, "target_session_attrs": "read-write"}
        assert {name: str(value) for name, value in told.items()} == read


@pytest.mark.parametrize(
    ("text", "host", "port", "wanted"),
    [
        ("postgresql:///d?host=h1,h2&port=1,2", "h1,h2", "1,2", "read-write"),
        ("postgresql:///d?host=h1,h2&port=1", "h1,h2", "1,1", "read-write"),
        ("postgresql://[::1]:1,[::2]/d?target_session_attrs=any", "::1,::2", "1,", "any"),
        ("postgresql:///d?host=/run/a,/run/b", "/run/a,/run/b", ",", "read-write"),
        ("postgresql:///d?hostaddr=127.0.0.1,127.0.0.2&port=1,2", "127.0.0.1,127.0.0.2", "1,2", "read-write"),
        ("postgresql:///d?hostaddr=::1&port=1", "::1", "1", None),
        ("postgresql:///d?host=::1", "::1", None, None),
        ("postgresql:///d?host=h1", "h1", None, None),
        ("postgresql://h1,h2/d?hostaddr=127.0.0.1,127.0.0.2", "h1,h2", ",", "read-write"),
        ("postgresql://h1/d?port=1&hostaddr=127.0.0.1", "h1", "1", None),
        ("postgresql://h1:1/d", "h1", 1, None),
        ("postgresql://h1/d?target_session_attrs=standby", "h1", None, "standby"),
    ],
)
def test_both_forms_of_a_list_reach_the_driver(text: str, host: str, port: Any, wanted: str | None) -> None:
    check_database_url(text)
    dialect: Any = PGDialect_psycopg
    _, told = dialect().create_connect_args(driver_url(text))
    assert (told["host"], told.get("port"), told.get("target_session_attrs")) == (host, port, wanted)


def test_what_a_worker_writes_with_is_no_standby() -> None:
    for wanted, several, one in [
        ("standby", False, False),
        ("read-only", False, False),
        ("prefer-standby", False, True),
        ("any", True, True),
        ("read-write", True, True),
        ("primary", True, True),
    ]:
        for hosts, well in (("h1,h2", several), ("h1", one)):
            url = f"postgresql://{hosts}/d?target_session_attrs={wanted}"
            with nullcontext() if well else pytest.raises(BadUrl, match="takes no writes"):
                check_writing(url)
            assert takes_the_first(url) == (wanted == "any" and hosts == "h1,h2")
    check_writing("postgresql://h1,h2/d")
    assert not takes_the_first("postgresql://h1,h2/d")


@given(user=any_text, password=any_text, host=any_text)
def test_kombu_and_redis_py_read_the_same(user: str, password: str, host: str) -> None:
    text = f"amqp://{quote(user, safe='')}:{quote(password, safe='')}@mq.example/{quote(host, safe='')}"
    url = read_url(text, AMQP_SCHEMES)
    theirs = as_kombu_reads(text)
    assert (theirs["userid"], theirs["password"]) == (unquote(url.user or ""), unquote(url.password or ""))
    assert theirs["virtual_host"] == host
    text = f"redis://{quote(user, safe='')}:{quote(password, safe='')}@r.example/7?client_name={quote(host, safe='')}"
    read: Any = as_redis_py_reads
    told = read(redis_py_url(text))
    assert (told["username"], told["password"], told["db"]) == (user, password, 7)
    assert told["client_name"] == host


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("postgresql://anna:p/w@db/x", "an @ after a /"),
        ("postgresql://anna:p?w@db/x", "an @ after a / or a ?"),
        ("postgresql://anna:p#w@db/x", "has a #"),
        ("postgresql://anna:p@w@db/x", "more than one @"),
        ("postgresql://anna:p%w@db/x", "its password has a character"),
        ("postgresql://anna:p[w@db/x", "its password has a character"),
        ("postgresql://anna:p w@db/x", "its password has a character"),
        ("postgresql://anna:pä@db/x", "its password has a character"),
        ("postgresql://anna:p%e4@db/x", "no UTF-8"),
        ("postgresql://anna:p/w", "its port is no number"),
        ("postgresql://db/x?sslmode", "name=value"),
        ("redis://:p/w@r/0", "an @ after a /"),
        ("amqp://a:p;w@mq/v", "URL 2 of 2, after a ;, is no URL that starts with amqp"),
        ("amqp://mq1/v;amqp://a:p/w@mq2/v", "URL 2 of 2: it has an @ after a /"),
        ("postgresql://db1:1,db2:x/d", "host 2 of 2: its port is no number"),
        ("postgresql://db1,d b2/d", "host 2 of 2: its name has a character"),
        ("amqp://a;host/v", "URL 2 of 2, after a ;, is no URL that starts with amqp"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(text: str, why: str) -> None:
    with pytest.raises(BadUrl, match=why) as refused:
        read_urls(text, ALL_SCHEMES)
    assert "percent-encode" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("postgresql://anna:p%00@db/x", "a NUL"),
        ("postgresql://db:99999/x", "its port is no number"),
        (" postgresql://db/x", "white space"),
        ("redis://r/zero", "no number of a database"),
        ("redis+socket://run/redis.sock", "three slashes"),
        ("amqp://mq1/v;amqp://mq2:0/v;amqp://mq3/v", "URL 2 of 3: its port is no number"),
        ("amqp://mq1/v;amqp://mq2/v;redis://r/0", "URL 3 of 3: expected a URL that starts with amqp:// or amqps://"),
        ("amqp://mq1/v;amqp://mq2/w", "URL 2 of 2 names another virtual host than the first one"),
        ("amqp://mq1;amqp://mq2/v", "URL 2 of 2 names another virtual host than the first one"),
        ("redis://r1/0;redis://r2/0", "a list of URLs is for brokers of amqp:// alone"),
        ("redis://r1/0;amqp://mq/v", "a list of URLs is for brokers of amqp:// alone"),
        ("postgresql://db1,,db3/d", "host 2 of 3: its name is missing"),
        ("amqp://a;", "URL 2 of 2 is empty"),
        ("amqp://a;;amqp://b", "URL 2 of 3 is empty"),
        (";amqp://a", "URL 1 of 2 is empty"),
        ("amqp://a; amqp://b", "URL 2 of 2 begins or ends with white space"),
        ("amqp://a/v;amqp://b/v?heartbeat=x", "URL 2 of 2: its parameter heartbeat has no usable value"),
    ],
)
def test_how_a_password_is_written_is_not_said_where_it_is_not_the_fault(text: str, why: str) -> None:
    with pytest.raises(BadUrl, match=why) as refused:
        read_urls(text, ALL_SCHEMES)
    assert "percent-encode" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("postgresql:///d?host=Zq7X&host=Wv9K&port=1", "its parameter host stands there more than once"),
        ("postgresql:///d?target_session_attrs=any&target_session_attrs=any", "target_session_attrs stands there more"),
        ("postgresql://Zq7X:1/d?host=Wv9K,h3&port=2", "it has hosts both before its path and after its ?"),
        ("postgresql://Zq7X/d?host=Wv9K", "it has hosts both before its path and after its ?"),
        ("postgresql://Zq7X:1/d?port=2", "it has hosts both before its path and after its ?"),
        ("postgresql://Zq7X,h/d?hostaddr=127.0.0.1", "the hosts before its path and hostaddr have 2 and 1 parts"),
        ("postgresql://h/d?hostaddr=Zq7X", "its parameter hostaddr is no IP address"),
        ("postgresql:///d?hostaddr=::1,Zq7X", "its parameter hostaddr, part 2 of 2, is no IP address"),
        ("postgresql:///d?host=a,b&port=0,70000", "its parameter port, part 1 of 2, is no number from 1 to 65535"),
        ("postgresql:///d?host=a,b&port=,70000", "its parameter port, part 2 of 2, is no number from 1 to 65535"),
        ("postgresql://h/d?port=70000", "its parameter port is no number from 1 to 65535"),
        ("postgresql://h/d?port=1,2", "it has 2 ports for 1 host: "),
        ("postgresql:///d?host=Zq7X,Wv9K,h3&port=1,2", "it has 2 ports for 3 hosts: give one for all, or one for each"),
        ("postgresql:///d?host=Zq7X,,h3", "its parameter host has an empty part: 2 of 3"),
        ("postgresql://Zq7X,Wv9K/d?host=h1,h2", "it has hosts both before its path and after its ?"),
        ("postgresql://Zq7X,Wv9K/d?port=1,2", "it has hosts both before its path and after its ?"),
        ("postgresql:///d?host=Zq7X,h2&hostaddr=127.0.0.1", "its parameters host and hostaddr have 2 and 1 parts"),
        ("postgresql://a,b/d?target_session_attrs=Zq7X", "target_session_attrs is none of any, read-write"),
        ("postgresql://a,b/d?load_balance_hosts=Zq7X", "load_balance_hosts is none of disable, random"),
    ],
)
def test_a_list_of_databases_that_cannot_be_meant_is_refused_before_anything_connects(text: str, why: str) -> None:
    with pytest.raises(BadUrl, match=re.escape(why)) as refused:
        check_database_url(text)
    nothing_is_told(str(refused.value))


@pytest.mark.parametrize(
    "name",
    [
        *("connect_timeout", "keepalives", "keepalives_idle", "keepalives_interval", "keepalives_count"),
        *("tcp_user_timeout", "sslmode", "gssencmode", "channel_binding", "sslcertmode", "sslnegotiation", "sslsni"),
        *("require_auth", "ssl_min_protocol_version", "ssl_max_protocol_version", "sslcompression"),
    ],
)
def test_a_value_that_libpq_would_refuse_at_each_connect_is_refused_at_once(name: str) -> None:
    for value in ("Zq7X", ""):
        if value or not name.startswith(("require", "ssl_m")):
            with pytest.raises(BadUrl, match=rf"its parameter {name} (is no|has a value)") as refused:
                check_database_url(f"postgresql://db/x?application_name=a&{name}={value}")
            nothing_is_told(str(refused.value))
            assert "percent-encode" not in str(refused.value)


def test_parameters_that_do_not_go_together_are_refused_and_good_ones_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(BadUrl, match="sslmode, sslrootcert do not go together"):
        check_database_url("postgresql://db/x?sslmode=require&sslrootcert=system")
    good = (
        "postgresql://anna:p@db/x?sslmode=verify-full&sslrootcert=system&connect_timeout=10&keepalives=1&service=none"
        "&keepalives_idle=5&gssencmode=require&require_auth=scram-sha-256&options=-c%20jit%3Doff&passfile=/none"
    )
    check_database_url(good)
    # What is wrong elsewhere is not said of the URL.
    monkeypatch.setenv("PGREQUIREAUTH", "nonsense")
    check_database_url(good.replace("scram-sha-256", "md5"))
    check_database_url("postgresql://db/x?sslmode=require")


@pytest.mark.parametrize(
    "text",
    [
        "redis://r/0?foo=Zq7X",
        "amqp://mq/v?ssl=Zq7X",
        "redis://r/0?db=Zq7X",
        "redis://r/0?socket_timeout=Zq7X",
        "amqp://mq/v?heartbeat=1&heartbeat=2",
    ],
)
def test_a_parameter_that_a_library_would_fail_of_is_refused_before(text: str) -> None:
    with pytest.raises(BadUrl) as refused:
        read_urls(text, BROKER_SCHEMES)
    nothing_is_told(str(refused.value))


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("amqp://mq/v", "connect_timeout"),
        ("amqps://mq/v", "connect_timeout"),
        ("redis://r/0", "socket_timeout"),
        ("rediss://r/0", "socket_connect_timeout"),
    ],
)
def test_a_wait_of_no_time_is_refused_as_nothing_could_answer_within_it(url: str, name: str) -> None:
    for value in ("0", "00", "-3", "nan", *(["0.0"] if url.startswith("redis") else [])):
        with pytest.raises(BadUrl, match=f"its parameter {name} has no usable value"):
            read_urls(f"{url}?{name}={value}", BROKER_SCHEMES)
    read_urls(f"{url}?{name}=10", BROKER_SCHEMES)
    read_urls("amqp://mq/v?heartbeat=0", BROKER_SCHEMES)  # that one is none, and may be meant


def test_a_parameter_that_postgres_does_not_know_is_refused_unnamed() -> None:
    """It may be what followed an unescaped & in a password."""
    with pytest.raises(BadUrl, match="that PostgreSQL does not know") as refused:
        check_database_url("postgresql://db/x?password=a&ZqXWvK=b")
    assert "ZqXWvK" not in str(refused.value)
    assert shown("postgresql://db/x?password=a&ZqXWvK=b") == "postgresql://db/x?password=***&***"


@pytest.mark.parametrize("text", ["Zq7X", "kafka://anna:Zq7X@k/1", "amqp://anna:Zq7X/@mq", "Zq7X://h", "redis://:Zq7X"])
def test_who_connects_to_a_broker_is_told_in_the_same_way(text: str) -> None:
    with pytest.raises(SettingsError, match=r"^the broker's URL: ") as refused:
        connect(text)
    nothing_is_told(str(refused.value))
    assert refused.value.__cause__ is None
    assert refused.value.__suppress_context__


def test_only_brokers_of_amqp_come_in_lists() -> None:
    assert [url.hosts for url in read_urls("amqp://a;amqps://b:1//;amqp://c", BROKER_SCHEMES)] == [
        (("a", ""),),
        (("b", "1"),),
        (("c", ""),),
    ]
    with pytest.raises(BadUrl):
        read_urls("redis://a;redis://b", BROKER_SCHEMES)
    with pytest.raises(BadUrl):
        read_urls("amqp://a;redis://b", BROKER_SCHEMES)
    with pytest.raises(BadUrl):
        read_url("amqp://a", REDIS_SCHEMES)
