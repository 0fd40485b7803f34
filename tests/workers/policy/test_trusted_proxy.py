"""What the setting of the trusted proxy may say, from where it is believed, and what its headers mean."""

from __future__ import annotations

import pytest

from caselog.workers.policy.tokens import Grant, TokenRole
from caselog.workers.policy.trusted_proxy import TrustedProxy, Vouched

READER, PERSONAL, OPERATOR = TokenRole.READER, TokenRole.PERSONAL, TokenRole.OPERATOR
EIGHTS = ",".join(f"{number}.0.0.0/8" for number in range(256))
SETTING = "addresses=10.1.2.3,10.2.0.0/16,2001:db8::/64 user=X-User roles=X-Groups"


def proxy() -> TrustedProxy:
    found = TrustedProxy.parse(SETTING)
    assert found is not None
    return found


def vouched(*headers: tuple[str, str]) -> Vouched | None:
    return proxy().vouched([(name.lower().encode(), value.encode()) for name, value in headers])


def test_ipv4_addresses_that_are_written_as_ipv6_are_the_same_addresses() -> None:
    mapped = TrustedProxy.parse("addresses=::ffff:10.1.2.3,::ffff:10.2.0.0/112 user=X-User roles=X-Groups")
    assert mapped is not None
    for address in ("10.1.2.3", "::ffff:10.1.2.3", "10.2.255.1", "::ffff:10.2.0.1"):
        assert mapped.is_peer(address)
    for address in ("10.1.2.4", "::ffff:10.3.0.1", "::10.1.2.3"):
        assert not mapped.is_peer(address)


def test_it_is_known_by_its_addresses_alone() -> None:
    for address in ("10.1.2.3", "10.2.255.1", "::ffff:10.2.0.1", "2001:db8::7"):
        assert proxy().is_peer(address)
    for address in ("10.1.2.4", "10.3.0.1", "2001:db8:0:1::1", "unknown", "::ffff:10.3.0.1", ""):
        assert not proxy().is_peer(address)
    assert TrustedProxy.parse(" ") is None


@pytest.mark.parametrize(
    ("said", "grant"),
    [
        ("reader", Grant(frozenset({READER}))),
        ("staff, reader+personal ,hr", Grant(frozenset({READER, PERSONAL}))),
        ("personal reader;operator", Grant(frozenset({READER, PERSONAL, OPERATOR}))),
        ("operator,publisher,eraser", Grant(frozenset({OPERATOR}))),
        ("staff,Reader,readers,reader:x", Grant(frozenset())),
        ("", Grant(frozenset())),
        ("reader,staff@prov-7,all@example.org", Grant(frozenset({READER}))),
        ("reader@prov-7", Grant(frozenset({READER}), "prov-7")),
        ("reader, personal@a%20b", Grant(frozenset({READER, PERSONAL}), "a b")),
    ],
)
def test_roles_that_are_ours_count_and_other_groups_do_not(said: str, grant: Grant) -> None:
    assert vouched(("X-User", " anna "), ("X-Groups", said)) == Vouched("anna", grant)


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("X-Groups", "reader")],
        [("X-User", ""), ("X-Groups", "reader")],
        [("X-User", "\x07"), ("X-Groups", "reader")],
        [("X-User", "a" * 101), ("X-Groups", "reader")],
        [("X-User", "mallory"), ("X-User", "anna"), ("X-Groups", "reader")],
        [("X-User", "anna"), ("X-Groups", "operator"), ("X-Groups", "reader")],
        [("X-User", "anna"), ("X-Groups", "reader@a,reader@b")],
        [("X-User", "anna"), ("X-Groups", "operator,reader@a")],
        [("X-User", "anna"), ("X-Groups", "personal")],
        *(
            [("X-User", "anna"), ("X-Groups", f"staff,reader,{bound}")]
            for bound in (
                *("reader@prov-2%2", "reader@", "reader@a:b", "reader@%zz", "reader@a@b", "reader @prov-1"),
                *("role:reader@prov-1", "caselog/role=reader@prov-1", "reader%252540prov-1"),
                *("Reader@prov-1", "readers@prov-1", "reder@prov-1", "reader+staff@prov-1", "+reader@prov-1"),
                *("reader%40prov-1", "reader\uff20prov-1", "reader@prov-2 North", "@prov-1", "personel@prov-1"),
            )
        ),
    ],
)
def test_what_is_not_said_beyond_doubt_is_not_said(headers: list[tuple[str, str]]) -> None:
    assert vouched(*headers) is None


@pytest.mark.parametrize(
    "header",
    [
        *("User-Agent", "Accept", "Accept-Language", "Referer", "Cookie", "Via", "Forwarded", "X-Forwarded-For"),
        *("X-Forwarded-Host", "X-Forwarded-Proto", "X-Real-IP", "Content-Language", "Connection", "Sec-Fetch-Site"),
        *("Origin", "Host", "X-Requested-With", "If-None-Match", "traceparent", "Upgrade-Insecure-Requests"),
    ],
)
def test_a_header_that_any_client_sets_says_no_user_and_no_roles(header: str) -> None:
    for user, roles in ((header, "X-Groups"), ("X-User", header.lower())):
        with pytest.raises(ValueError, match="any client sets"):
            TrustedProxy.parse(f"addresses=10.0.0.1 user={user} roles={roles}")


@pytest.mark.parametrize(
    "header",
    [
        *("Remote-User", "X-Forwarded-User", "X-Forwarded-Groups", "X-Auth-Request-Email", "X-Forwarded-Email"),
        *("Cf-Access-Authenticated-User-Email", "X-Amzn-Oidc-Identity", "X-Webauth-User", "X-Authentik-Groups"),
    ],
)
def test_headers_that_proxies_say_users_in_are_taken(header: str) -> None:
    found = TrustedProxy.parse(f"addresses=10.0.0.0/8,172.16.0.0/12,fd00::/16 user={header} roles=X-Roles")
    assert found is not None
    assert found.user_header == header.lower()


def test_bytes_that_are_no_text_name_nobody() -> None:
    assert proxy().vouched([(b"x-user", b"\xff"), (b"x-groups", b"reader")]) is None


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("user=X-User roles=X-Groups", "addresses= is missing"),
        ("addresses= user=X-User roles=X-Groups", "addresses= is missing or empty"),
        ("addresses=, user=X-User roles=X-Groups", "addresses= is missing or empty"),
        ("addresses=0.0.0.0/0 user=X-User roles=X-Groups", "that is everybody"),
        ("addresses=::/0 user=X-User roles=X-Groups", "that is everybody"),
        ("addresses=::ffff:0:0/96 user=X-User roles=X-Groups", "that is everybody"),
        ("addresses=::ffff:10.0.0.0/103 user=X-User roles=X-Groups", "/8 or longer"),
        ("addresses=0.0.0.0/1,128.0.0.0/1 user=X-User roles=X-Groups", "too much of the world"),
        ("addresses=10.0.0.0/7 user=X-User roles=X-Groups", "/8 or longer"),
        ("addresses=2000::/3 user=X-User roles=X-Groups", "/16 or longer"),
        (f"addresses={EIGHTS} user=X-User roles=X-Groups", "more than 4 networks of /8"),
        ("addresses=10.0.0.1/8 user=X-User roles=X-Groups", "no address and no network"),
        ("addresses=proxy user=X-User roles=X-Groups", "no address and no network"),
        ("addresses=10.0.0.1 roles=X-Groups", "user= is missing"),
        ("addresses=10.0.0.1 user=X-User", "roles= is missing"),
        ("addresses=10.0.0.1 user=X-User roles=x-user", "the same header"),
        ("addresses=10.0.0.1 user=Authorization roles=X-Groups", "any client sets"),
        ("addresses=10.0.0.1 user=X_User roles=X-Groups", "no name of a header"),
        ("addresses=10.0.0.1 user=X-User user=X-Y roles=X-Groups", "twice"),
        ("10.0.0.1", "none of addresses="),
    ],
)
def test_a_proxy_that_is_half_set_is_one_line(setting: str, says: str) -> None:
    with pytest.raises(ValueError, match=says) as caught:
        TrustedProxy.parse(setting)
    assert "\n" not in str(caught.value)
