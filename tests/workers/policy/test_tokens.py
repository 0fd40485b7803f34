"""Bearer tokens: what the setting may say, that no fault in it shows a secret, and which token a secret is."""

from __future__ import annotations

import pytest

from caselog.workers.access.refusals import ADDRESSES_MAX, ATTEMPTS_MAX, ATTEMPTS_WITHIN_S, Attempts
from caselog.workers.policy.tokens import Grant, TokenRole, Tokens
from caselog.workers.settings import load_settings

ANNA = "anna-anna-anna-anna-anna"
APP = "app/app+app~app.app_app="


def test_a_token_is_found_by_its_whole_secret_alone() -> None:
    tokens = Tokens.parse(f"anna:operator:{ANNA}, app1:publisher:{APP},")
    anna, app = tokens.find(ANNA), tokens.find(APP)
    assert anna is not None
    assert app is not None
    assert (anna.name, anna.grant) == ("anna", Grant(frozenset({TokenRole.OPERATOR})))
    assert (app.name, app.grant) == ("app1", Grant(frozenset({TokenRole.PUBLISHER})))
    for wrong in ("", ANNA[:-1], f"{ANNA}a", f"anna:operator:{ANNA}", "\udcff", "x" * 10_000_000):
        assert tokens.find(wrong) is None


def test_a_token_may_have_both_roles_and_a_name_two_tokens_while_its_secret_is_changed() -> None:
    tokens = Tokens.parse(f"anna:operator+publisher:{ANNA},anna:publisher+operator:{APP}")
    assert [token.grant.roles for token in tokens] == [frozenset({TokenRole.OPERATOR, TokenRole.PUBLISHER})] * 2
    assert tokens.masked() == "anna:operator+publisher:***,anna:operator+publisher:***"


def test_a_token_is_bound_to_a_provider_whose_name_may_have_any_character() -> None:
    tokens = Tokens.parse(f"ann:reader+personal@R%26B%3A%20S%C3%B6hne%2C%40x:{ANNA}, ben:reader@prov-7:{APP}")
    ann, ben = tokens
    assert (ann.grant.provider, ben.grant.provider) == ("R&B: Söhne,@x", "prov-7")
    assert tokens.masked() == "ann:personal+reader@R%26B%3A%20S%C3%B6hne%2C%40x:***,ben:reader@prov-7:***"
    assert tokens.find(ANNA) == ann


def test_an_operator_reads_but_not_what_is_personal_and_the_other_roles_read_nothing() -> None:
    tokens = Tokens.parse(f"a:operator:{ANNA}, b:publisher+eraser:{APP}")
    operator, other = (token.grant for token in tokens)
    assert [operator.includes(role) for role in (TokenRole.READER, TokenRole.PERSONAL)] == [True, False]
    assert not other.includes(TokenRole.READER)
    assert tokens.include(TokenRole.READER)
    assert not Tokens.parse(f"b:publisher:{APP}").include(TokenRole.READER)


def test_with_nothing_set_nobody_has_a_token() -> None:
    assert not Tokens.parse("")
    assert Tokens.parse("").find("") is None


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (ANNA, "token 1 has 1 of 3 parts"),
        (f"anna:{ANNA}", "token 1 has 2 of 3 parts"),
        (f"ok:publisher:{APP},{ANNA}:operator", "token 2 has 2 of 3 parts"),
        (f":operator:{ANNA}", "name"),
        (f"{ANNA} x:operator:{ANNA}", "name"),
        (f"anna:{ANNA}:operator", "unknown role"),
        (f"anna:operator+:{ANNA}", "unknown role"),
        (f"anna:Operator:{ANNA}", "unknown role"),
        ("anna:operator:", "secret"),
        ("anna:operator:anna-anna-anna-anna", "19 characters"),
        (f"anna:operator:{'anna' * 200}", "800 characters"),
        (f"anna:operator:{ANNA} x", "secret with other than"),
        (f"anna:operator:{ANNA}:x", "secret with other than"),
        (f"anna:operator:{ANNA},bob:operator:{ANNA}", "secret of another"),
        (f"anna:reader@:{ANNA}", "no provider's name"),
        (f"anna:reader@anna@anna:{ANNA}", "no provider's name"),
        (f"anna:reader@an na:{ANNA}", "no provider's name"),
        (f"anna:reader@%61nna%2:{ANNA}", "no provider's name"),
        (f"anna:reader@anna%FF:{ANNA}", "no provider's name"),
        (f"anna:reader@anna%00:{ANNA}", "no provider's name"),
        (f"anna:reader@{'anna' * 30}:{ANNA}", "no provider's name"),
        (f"anna:operator@anna:{ANNA}", "bound to a provider"),
        (f"anna:reader+eraser@anna:{ANNA}", "bound to a provider"),
        (f"anna:publisher@anna:{ANNA}", "goes with personal, reader alone"),
        (f"anna:reader+publisher@anna:{ANNA}", "goes with personal, reader alone"),
        (f"anna:personal:{ANNA}", "personal without reader"),
        (f"anna:reader@anna:{ANNA},anna:reader@bob:{APP}", "another provider"),
        (f"anna:reeder:{ANNA}", "unknown role"),
        (f"anna:operator:{ANNA},anna:publisher:{APP}", "other roles"),
    ],
)
def test_a_malformed_setting_is_one_line_that_shows_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch, value: str, says: str
) -> None:
    monkeypatch.setenv("CASELOG_API_TOKENS", value)
    with pytest.raises(Exception, match="CASELOG_API_TOKENS") as caught:
        load_settings()
    said = str(caught.value)
    assert says in said
    assert "\n" not in said
    assert "anna" not in said
    assert "app" not in said


def test_an_address_that_failed_too_often_waits_and_others_do_not() -> None:
    """One minute from its first failure; whoever has a network of IPv6 addresses has one address here."""
    now = 0.0
    attempts = Attempts(lambda: now)
    for _ in range(ATTEMPTS_MAX):
        assert attempts.wait_s("192.0.2.1") == 0
        attempts.fail("192.0.2.1")
    assert attempts.wait_s("192.0.2.1") > 0
    assert attempts.wait_s("::ffff:192.0.2.2") == attempts.wait_s("192.0.2.2") == 0
    for number in range(ATTEMPTS_MAX):
        attempts.fail(f"2001:db8::{number:x}")
    assert attempts.wait_s("2001:db8::ffff") > 0
    assert attempts.wait_s("2001:db8:0:1::") == 0
    now = ATTEMPTS_WITHIN_S + 1
    assert attempts.wait_s("192.0.2.1") == 0
    attempts.fail("192.0.2.1")
    assert attempts.wait_s("192.0.2.1") == 0


def test_however_many_addresses_fail_the_memory_of_them_is_bounded() -> None:
    attempts = Attempts()
    for number in range(3 * ADDRESSES_MAX):
        attempts.fail(f"10.0.{number // 256}.{number % 256}")
    assert len(attempts) == ADDRESSES_MAX
