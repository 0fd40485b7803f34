"""By which names a request may ask, however a foreign page, a tunnel or a proxy writes them."""

from __future__ import annotations

import pytest

from caselog.workers.policy.host_names import check_name, is_ours

KNOWN = frozenset(check_name(name) for name in ("Caselog.Example", "10.1.2.3", "[2001:DB8::1]", "host_a"))


@pytest.mark.parametrize(
    "host",
    [
        *("localhost", "LOCALHOST", "localhost.", "localhost:8080", "localhost:", "localhost.:1"),
        *("127.0.0.1", "127.0.0.1:65535", "127.255.0.9", "127.0.0.1.:80", "[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]"),
        *(
            "[::ffff:127.0.0.1]:80",
            "caselog.example",
            "CASELOG.example.:443",
            "10.1.2.3:1",
            "[2001:db8:0::1]",
            "host_a",
        ),
    ],
)
def test_a_loopback_name_and_those_that_are_set_are_ours_at_any_port(host: str) -> None:
    assert is_ours([host.encode()], KNOWN)


@pytest.mark.parametrize(
    "host",
    [
        *("evil.example", "localhost.evil.example", "evil.example:8080", "127.0.0.1.evil.example", "xcaselog.example"),
        *("evil.localhost", "0.0.0.0", "[::]", "10.1.2.4", "128.0.0.1", "2130706433", "0x7f.1", "127.1", "0177.0.0.1"),
        *("", " ", ".", "localhost..", ":8080", "localhost:x", "localhost:99999", "localhost:1:2", "localhost:-1"),
        *("::1", "[::1", "::1]", "[127.0.0.1]", "[localhost]", "[::1%25eth0]", "[2001:db8::2]", "[::ffff:10.0.0.1]"),
        *(
            "localhost@evil.example",
            "evil.example@localhost",
            "localhost/evil",
            "localhost#x",
            "localhost, evil.example",
        ),
        *("localhost\t", " localhost", "localh\u00f6st".encode().decode("latin-1"), "\u2460localhost", "loc\x00alhost"),
    ],
)
def test_any_other_is_not_and_neither_is_what_nobody_understands(host: str) -> None:
    assert not is_ours([host.encode("utf-8")], KNOWN)


def test_a_request_without_a_host_or_with_two_is_nobodys() -> None:
    assert not is_ours([], KNOWN)
    assert not is_ours([b"localhost", b"localhost"], KNOWN)


@pytest.mark.parametrize("name", ["http://x", "x:80", "x/y", "", "*", "*.x", "a b", "-x", "x-.y"])
def test_a_name_that_is_set_has_no_scheme_no_port_and_no_star(name: str) -> None:
    with pytest.raises(ValueError, match="no name or address"):
        check_name(name)
