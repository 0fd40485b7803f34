"""The door: each address of the router asked by everybody, and by every name that leads to it."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import ssl
from collections.abc import Iterator
from typing import Any, Final

import httpx
import pytest
from litestar import Litestar, WebSocket, get, websocket
from litestar.testing import TestClient
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline
from support.processes.served import Served, bearer

from caselog.events.errors import SettingsError
from caselog.schema.operations import audit, dead_letter_queries
from caselog.schema.operations.dead_letter_queries import Filter
from caselog.schema.recording import dead_letters
from caselog.schema.recording.dead_letters import DeadLetter
from caselog.schema.sessions.connection import make_engine
from caselog.workers.access.callers import NEEDS, READS, Need
from caselog.workers.access.refusals import ATTEMPTS_MAX
from caselog.workers.access.sessions import COOKIE
from caselog.workers.roles.status import web_application
from caselog.workers.servers.locate import Services
from caselog.workers.settings import Settings, load_settings, shown
from caselog.workers.web.app import make_app
from caselog.workers.web.door import Undeclared, handlers_of

PAGE: Final = {"accept": "text/html"}
SECRETS: Final = {
    name: "-".join([name] * 6) for name in ("reader", "personal", "operator", "publisher", "eraser", "bound", "all")
}
ROLES: Final = {
    "reader": "reader",
    "personal": "reader+personal",
    "operator": "operator",
    "publisher": "publisher",
    "eraser": "eraser",
    "bound": "reader@prov-7",
    "all": "operator+personal+publisher",
}
TOKENS: Final = ",".join(f"{name}:{roles}:{SECRETS[name]}" for name, roles in ROLES.items())
PROXY: Final = "addresses=127.7.0.0/16 user=X-User roles=X-Roles"
CLOSED: Final = {"CASELOG_READING": "token", "CASELOG_API_TOKENS": TOKENS, "CASELOG_TRUSTED_PROXY": PROXY}
# Who gets what is needed, as docs/access.md says it: told here once more, and not taken from the code.
ADMITTED: Final = {
    Need.READER: {"reader", "personal", "operator", "bound", "all"},
    Need.UNBOUND_READER: {"reader", "personal", "operator", "all"},
    Need.OPERATOR: {"operator", "all"},
    Need.PUBLISHER: {"publisher", "all"},
}
OPEN: Final = {
    *("GET /livez", "GET /readyz", "GET /ping.json", "GET /healthcheck.json", "GET /metrics"),
    *("GET /sign-in", "POST /sign-in", "POST /sign-out"),
    *("GET /static/caselog.css", "GET /static/ops.css", "GET /static/caselog.svg"),
}
# What one who is bound to a provider may ask: his reports, and what nobody's cases are in.
BOUND: Final = {
    "/reports",
    "/reports/{name:str}",
    "/static/ops.js",
    "/openapi.json",
    "/openapi.json/{path:str}",
} | {"/openapi.json/openapi.json"}
# Which answers are of cases, and which are not though they show something.
READS_OF_CASES: Final = {"/", "/now", "/audit", "/dead/{verb:str}", "/parked/{verb:str}", "/reports/{name:str}"}
NO_READS: Final = {
    *("/pause", "/resume", "/reports", "/static/ops.js", "/openapi.json", "/openapi.json/{path:str}"),
    "/openapi.json/openapi.json",
}
_numbers = itertools.count(1)
# One for all requests: a client that makes its own reads all certificates of the system.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def ask(
    url: str, method: str, path: str, *, source: str | None = None, cookies: Any = None, **more: Any
) -> httpx.Response:
    """A request from an address of its own: what one sender may fail at, another may not have to wait for."""
    number = next(_numbers)
    source = source or f"127.1.{number // 250}.{number % 250 + 1}"
    transport = httpx.HTTPTransport(local_address=source, verify=_NO_TLS)
    with httpx.Client(transport=transport, timeout=DEADLINE_S, cookies=cookies) as client:
        return client.request(method, url + path, **more)


@pytest.fixture
def closed(redis_pipeline: Pipeline) -> Served:
    return Served(redis_pipeline, **CLOSED)


@pytest.fixture
def routes(redis_pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[str, str, str, Any]]]:
    """Each method of each address of the router, with what stands for its parameters, and its handler."""
    for name, value in {**redis_pipeline.settings, **CLOSED}.items():
        monkeypatch.setenv(name, value)
    services = Services(redis_pipeline.database_url, redis_pipeline.broker_url, redis_pipeline.broker_url)
    with web_application(Settings(), services) as (app, _):
        yield [
            (str(method), FILLED.get(route.path, route.path), route.path, handler)
            for route in app.routes
            for handler in handlers_of(route)
            for method in handler.http_methods
        ]


FILLED: Final = {
    "/reports/{name:str}": "/reports/outcomes",
    "/dead/{verb:str}": "/dead/discard",
    "/parked/{verb:str}": "/parked/retry",
    "/openapi.json/{path:str}": "/openapi.json/x",
}


def test_every_address_of_the_router_admits_whom_it_declares_and_nobody_else(
    closed: Served, routes: list[tuple[str, str, str, Any]]
) -> None:
    """Without a token, with a wrong one, with one of each role, and with one that is bound to a provider."""
    assert len(routes) > 30
    wrong = 0
    for method, path, declared, handler in routes:
        assert "{" not in path, f"say what {declared} is asked for here"
        need = handler.opt[NEEDS]
        named = f"{'GET' if method == 'HEAD' else method} {declared}"
        assert (need is Need.NOTHING) == (named in OPEN), named
        assert (need is Need.READER) == (declared in BOUND), named
        for who in (None, "wrong", *SECRETS):
            headers = {} if who is None else bearer(SECRETS.get(who, "wrong-wrong-wrong-wrong-wrong"))
            answer = ask(closed.url, method, path, headers=headers)
            said = f"{method} {path} asked by {who}: {answer.status_code}"
            if need is Need.NOTHING:
                # To sign in without a token is 403, and says so itself.
                assert answer.status_code not in ((401, 421) if declared == "/sign-in" else (401, 403, 421)), said
            elif who in ADMITTED[need]:
                assert answer.status_code not in (401, 403, 421, 429), said
            else:
                assert answer.status_code == (401 if who in (None, "wrong") else 403), said
                wrong += 1
    assert wrong > 100
    assert "a page failed" not in closed.worker.said()


def test_what_is_of_cases_is_declared_to_be_read(routes: list[tuple[str, str, str, Any]]) -> None:
    """A new address is in one of the two sets, or fails here."""
    shown = {(path, handler.opt.get(READS)) for _, _, path, handler in routes if handler.opt[NEEDS].is_reading}
    assert {path for path, reads in shown if reads} == READS_OF_CASES
    assert {path for path, reads in shown if not reads} == NO_READS


def test_a_route_that_declares_nothing_does_not_start() -> None:
    @get("/forgotten")
    async def forgotten() -> str:
        return ""

    @websocket("/other")
    async def other(socket: WebSocket[Any, Any, Any]) -> None:
        await socket.accept()

    def app() -> Litestar:
        return make_app(Settings(), None, None)  # type: ignore[arg-type]  # no page is asked here

    with pytest.raises(Undeclared, match="/forgotten does not declare"):
        make_app(Settings(), None, None, more=[forgotten])  # type: ignore[arg-type]  # likewise
    with pytest.raises(Undeclared, match="/other is no HTTP route"):
        app().register(other)
    late = app()
    with pytest.raises(Undeclared, match="/forgotten does not declare"):
        late.register(forgotten)
    with TestClient(
        late, base_url="http://127.0.0.1"
    ) as client:  # where reading is open, and it was added all the same
        assert client.get("/forgotten").status_code == 401


def test_without_a_token_a_closed_installation_tells_nothing_but_that_it_lives(closed: Served) -> None:
    """What there is and what there is not get the same bytes; probes get names and no values."""
    there, gone = (ask(closed.url, "GET", path) for path in ("/reports/outcomes?format=csv", "/reports/nothing"))
    nowhere, other = ask(closed.url, "GET", "/nowhere"), ask(closed.url, "DELETE", "/livez")
    assert {answer.status_code for answer in (there, gone, nowhere, other)} == {401}
    assert len({answer.content for answer in (there, gone, nowhere, other)}) == 1
    for path in ("/healthcheck.json", "/readyz"):
        told = ask(closed.url, "GET", path).json()
        assert len(told) > 2
        assert all(set(check) == {"status"} for check in told.values())
        assert ask(closed.url, "GET", path, headers=bearer(SECRETS["bound"])).json() == told
        values = ask(closed.url, "GET", path, headers=bearer(SECRETS["reader"])).json()
        assert all("value" in check for check in values.values())
    for path in ("/now", "/openapi.json", "/static/ops.js"):
        assert ask(closed.url, "GET", path).status_code == 401
    # Bound to a provider, one is told as little of what is not his.
    theirs = [
        ask(closed.url, *asked.split(), headers=bearer(SECRETS["bound"]))
        for asked in (
            *("GET /audit", "GET /nowhere", "GET /now", "GET /static/nowhere", "POST /events", "POST /pause"),
            *("POST /nowhere", "GET /events", "DELETE /reports", "POST /dead/discard"),
        )
    ]
    assert {answer.status_code for answer in theirs} == {403}
    assert len({answer.content for answer in theirs}) == 1
    refused = closed.worker.said()
    assert "format=csv" not in refused
    assert "nowhere" not in refused
    assert not any(secret in refused for secret in SECRETS.values())


def test_metrics_are_closed_where_a_setting_says_so(redis_pipeline: Pipeline) -> None:
    closed = Served(redis_pipeline, **CLOSED, CASELOG_METRICS="token")
    assert ask(closed.url, "GET", "/metrics").status_code == 401
    assert ask(closed.url, "GET", "/metrics", headers=bearer(SECRETS["bound"])).status_code == 403
    assert ask(closed.url, "GET", "/metrics", headers=bearer(SECRETS["reader"])).status_code == 200


def said(url: str, request: bytes) -> bytes:
    """The first line of the answer to these bytes."""
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=DEADLINE_S) as client:
        client.sendall(request)
        return client.makefile("rb").readline()


def test_where_reading_is_open_a_foreign_hosts_page_reads_nothing(redis_pipeline: Pipeline) -> None:
    """DNS lets a name of the attacker mean 127.0.0.1: what the browser says it asks for is that name."""
    served = Served(redis_pipeline, CASELOG_HTTP_HOSTS="caselog.example")
    port = served.url.rpartition(":")[2]
    statuses = {"/": 200, "/reports?format=json": 200, "/static/ops.css": 200, "/livez": 200, "/nope": 404}
    for path, status in statuses.items():
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "EVIL.example.", "[2001:db8::1]"):
            answer = served.get(path, headers={"host": host})
            assert (answer.status_code, "evil" in answer.text) == (421, False), host
        for host in ("localhost", f"LOCALHOST.:{port}", "127.0.0.1:1", "[::1]:8080", "Caselog.Example.:443"):
            assert served.get(path, headers={"host": host}).status_code == status, host
        for request in (
            f"GET http://evil.example{path} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n",
            f"GET http://127.0.0.1{path} HTTP/1.1\r\nhost: evil.example\r\n\r\n",
            f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nhost: evil.example\r\n\r\n",
            f"GET {path} HTTP/1.1\r\nhost: evil.example\r\nhost: 127.0.0.1\r\n\r\n",
            f"GET {path} HTTP/1.0\r\n\r\n",
            f"GET {path} HTTP/1.1\r\nhost:\r\n\r\n",
        ):
            assert said(served.url, request.encode()).split()[1] in (b"400", b"421"), request


STRANGE_HOSTS: Final = [
    *("x:99999999", "x:abc", "[::1]:abc", "[::1", "x:1:2", "x:-1", "a b", "x/y", "anna@x", "x?", "[::g]", "%", ".."),
    "\xff",
]


def test_a_host_that_is_none_is_400_whoever_asks_whatever_for(closed: Served) -> None:
    """Also where any name will do: nobody builds an address of it, and nothing fails."""
    for host, (method, path) in itertools.product(
        STRANGE_HOSTS,
        [("GET", "/static/ops.css"), ("POST", "/sign-in"), ("POST", "/sign-out"), ("GET", "/livez"), ("GET", "/nope")],
    ):
        for more in ("", "accept: text/html\r\n"):
            request = f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{more}content-length: 0\r\n\r\n".encode("latin-1")
            assert said(closed.url, request).split()[1] == b"400", request
    for host in ("x", "x:", "10.1.2.3:8080", "[2001:db8::1]:80", "status_1", ""):
        request = f"GET /static/ops.css HTTP/1.1\r\nhost: {host}\r\n\r\n".encode()
        assert said(closed.url, request).split()[1] == b"200", request
    assert said(closed.url, b"GET /livez HTTP/1.0\r\n\r\n").split()[1] == b"200"
    logged = closed.worker.said()
    assert "Traceback" not in logged
    assert logged.count("a request was refused") == ATTEMPTS_MAX


@pytest.mark.parametrize("path", ["/sign-in", "/sign-out"])
def test_a_form_that_cannot_be_read_is_400(closed: Served, path: str) -> None:
    """A part of it may name any charset, or one that Python does not take for text."""
    statuses = {}
    charsets = ("foo", "utf-16", "hex", "idna", "punycode", "undefined", "zlib", "unicode_escape", "utf-8", "a" * 300)
    for charset, value in itertools.product(charsets, (b"x", b"abc\xff\\u1")):
        head = f'--B\r\nContent-Disposition: form-data; name="token"\r\nContent-Type: text/plain; charset={charset}\r\n'
        body = head.encode() + b"\r\n" + value + b"\r\n--B--\r\n"
        headers = {"content-type": "multipart/form-data; boundary=B"}
        answer = ask(closed.url, "POST", path, content=body, headers=headers)
        statuses[charset, value] = answer.status_code
    read = {(charset, b"x") for charset in ("idna", "unicode_escape", "utf-8")}
    unread = {status for sent, status in statuses.items() if sent not in read}
    assert unread == {400}, statuses
    assert {statuses[sent] for sent in read} == {200 if path == "/sign-out" else 403}
    assert "Traceback" not in closed.worker.said()


def test_where_reading_takes_a_token_probes_ask_by_any_name_and_pages_by_those_that_are_set(
    redis_pipeline: Pipeline,
) -> None:
    by_any = Served(redis_pipeline, **CLOSED)
    set_ = Served(redis_pipeline, **CLOSED, CASELOG_HTTP_HOSTS="caselog.example")
    for served, status in ((by_any, 200), (set_, 421)):
        for path in ("/livez", "/metrics", "/readyz"):
            assert served.get(path, headers={"host": "10.1.2.3:8080"}).status_code == 200
        headers = {**bearer(SECRETS["reader"]), "host": "10.1.2.3"}
        assert served.get("/reports", headers=headers).status_code == status
    assert set_.get("/reports", headers={**bearer(SECRETS["reader"]), "host": "caselog.example"}).status_code == 200


def test_only_from_the_proxys_addresses_its_headers_count(closed: Served) -> None:
    """Elsewhere they are as if they were absent; the log says that somebody tried, and not what."""
    headers = {"x-user": "zoe", "x-roles": "reader+personal, staff"}
    assert ask(closed.url, "GET", "/reports", headers=headers).status_code == 401
    assert ask(closed.url, "GET", "/reports", headers={**headers, **bearer(SECRETS["reader"])}).status_code == 200
    logged = closed.worker.said()
    assert "came from elsewhere" in logged
    assert not re.search("zoe|staff", logged)
    for more, status in (
        (headers, 200),
        ({**headers, "x-roles": "staff"}, 403),
        ({**headers, "x-user": ""}, 401),
        ({"x-user": "zoe"}, 403),
        ({"x-roles": "reader"}, 401),
        ({**headers, **bearer("what-the-proxy-asked-for-the-user")}, 200),
    ):
        assert ask(closed.url, "GET", "/reports", headers=more, source="127.7.0.1").status_code == status, more
    twice = [("x-user", "mallory"), ("x-user", "zoe"), ("x-roles", "reader")]
    assert ask(closed.url, "GET", "/reports", headers=twice, source="127.7.0.1").status_code == 401
    page = ask(closed.url, "GET", "/reports", headers={**headers, **PAGE}, source="127.7.0.1").text
    assert "You are <strong>zoe</strong>" in page
    assert "Sign out" not in page


def test_a_page_that_was_led_here_from_a_proxys_address_reads_nothing() -> None:
    """It could write the headers itself, on whatever machine: so the name that it asks by counts.

    Through a port that a container publishes, browsers and proxies of the machine come from the bridge's address.
    """
    asyncio.run(_led_here())


async def _led_here() -> None:
    gateway = "172.18.0.1"
    proxied = {"reading": "token", "trusted_proxy": f"addresses={gateway} user=X-User roles=X-Roles"}
    for more, hosts in (
        ({}, {"evil.example": 421, "evil.example:8080": 421, "caselog.example": 421, "127.0.0.1:8080": 200}),
        ({"http_hosts": "caselog.example"}, {"evil.example": 421, "caselog.example:8080": 200}),
    ):
        app: Any = make_app(Settings(**proxied, **more), None, None)  # type: ignore[arg-type]  # no page is asked here
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app, client=(gateway, 50_000))) as client:
            for host, status in hosts.items():
                for path in ("/static/ops.js", "/static/ops.css"):
                    headers = {"x-user": "zoe", "x-roles": "operator", "host": host}
                    answer = await client.get(f"http://here{path}", headers=headers)
                    assert answer.status_code == status, (more, host, path)
            assert (await client.get("http://here/livez", headers={"host": "10.1.2.3"})).status_code == 200


def test_another_sites_page_reads_nothing_in_the_name_of_who_is_known_by_himself(closed: Served) -> None:
    """He would be in the audit for what that page asked for: a picture, a frame, a fetch. A link he follows himself."""
    headers = {"x-user": "zoe", "x-roles": "reader"}
    for site, mode, destination, status in (
        ("cross-site", "no-cors", "image", 403),
        ("same-site", "no-cors", "image", 403),
        ("cross-site", "cors", "empty", 403),
        ("cross-site", "navigate", "iframe", 403),
        ("cross-site", "", "", 403),
        ("cross-site", "navigate", "document", 200),
        ("same-site", "navigate", "document", 200),
        ("same-origin", "no-cors", "image", 200),
        ("none", "navigate", "document", 200),
    ):
        fetched = {"sec-fetch-site": site, "sec-fetch-mode": mode, "sec-fetch-dest": destination}
        for method in ("GET", "HEAD"):
            for more, expected in ((headers, status), (bearer(SECRETS["reader"]), 200)):
                answer = ask(closed.url, method, "/reports", headers={**more, **fetched}, source="127.7.0.5")
                assert answer.status_code == expected, (more, fetched)
    assert ask(closed.url, "GET", "/reports", headers=headers, source="127.7.0.5").status_code == 200
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    ahead = {**headers, **link, "sec-purpose": "prefetch"}
    assert ask(closed.url, "GET", "/reports", headers=ahead, source="127.7.0.5").status_code == 403


def test_what_the_proxy_vouches_for_acts_from_our_own_pages_and_publishes_nothing(closed: Served) -> None:
    headers = {"x-user": "zoe", "x-roles": "operator,publisher"}
    form = {"why": "the database moves"}

    def post(path: str, **more: Any) -> int:
        answer = ask(closed.url, "POST", path, headers={**headers, **more}, data=form, source="127.7.0.2")
        return answer.status_code

    for more in ({"origin": "http://evil.example"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}):
        assert post("/pause", **more) == 403
    assert post("/pause", origin=closed.url) == 200
    assert post("/resume", **{"sec-fetch-site": "same-origin"}) == 200
    assert post("/events") == 403


def test_who_fails_is_slowed_and_others_are_not_behind_the_same_proxy_too(closed: Served) -> None:
    wrong = bearer("wrong-wrong-wrong-wrong-wrong")
    statuses = [ask(closed.url, "GET", "/reports", headers=wrong, source="127.2.0.1").status_code for _ in range(12)]
    assert statuses == [401] * ATTEMPTS_MAX + [429] * 2
    assert ask(closed.url, "GET", "/reports", headers=wrong, source="127.2.0.2").status_code == 401
    reader = bearer(SECRETS["reader"])
    assert ask(closed.url, "GET", "/reports", headers=reader, source="127.2.0.1").status_code == 200
    for who, expected in (("mallory", 429), ("anna", 403)):
        headers = {"x-user": who, "x-roles": "reader"}
        for _ in range(ATTEMPTS_MAX if who == "mallory" else 0):
            ask(closed.url, "POST", "/pause", headers=headers, source="127.7.0.3")
        assert ask(closed.url, "POST", "/pause", headers=headers, source="127.7.0.3").status_code == expected
    # Who brings nothing has not failed: his browser asks for several things at once.
    assert {ask(closed.url, "GET", "/", source="127.2.0.3").status_code for _ in range(ATTEMPTS_MAX + 2)} == {401}


def test_who_guesses_at_signing_in_is_slowed_and_a_right_token_from_there_signs_in(closed: Served) -> None:
    def sign_in(secret: str) -> int:
        answer = ask(closed.url, "POST", "/sign-in", data={"token": secret}, headers=PAGE, source="127.2.1.1")
        return answer.status_code

    statuses = [sign_in("wrong-wrong-wrong-wrong-wrong") for _ in range(ATTEMPTS_MAX + 2)]
    assert statuses == [403] * ATTEMPTS_MAX + [429] * 2
    assert sign_in(SECRETS["reader"]) == 303
    assert sign_in(SECRETS["publisher"]) == 429


def test_a_wrong_token_is_counted_and_told_wherever_it_is_presented(redis_pipeline: Pipeline) -> None:
    """Also where nobody needs one: an answer there tells whether it is right. Who presents none is never slowed."""
    wrong, right = bearer("wrong-wrong-wrong-wrong-wrong"), bearer(SECRETS["reader"])
    closed, open_ = (Served(redis_pipeline, **{**CLOSED, "CASELOG_READING": reading}) for reading in ("token", "open"))
    asked = [(closed, "/healthcheck.json"), (closed, "/readyz"), (closed, "/static/ops.css"), (open_, "/reports")]
    for number, (served, path) in enumerate(asked, 1):
        source = f"127.2.4.{number}"

        def status(headers: Any, served: Served = served, path: str = path, source: str = source) -> int:
            return ask(served.url, "GET", path, headers=headers, source=source).status_code

        usual = status({})
        assert [status(wrong) for _ in range(ATTEMPTS_MAX + 2)] == [usual] * ATTEMPTS_MAX + [429] * 2, path
        assert {status(headers) for headers in (right, {}) for _ in range(ATTEMPTS_MAX + 1)} == {usual}, path
        lines = [line for line in served.worker.said().splitlines() if source in line]
        assert len(lines) == ATTEMPTS_MAX, path
        assert all("a token that is not known was presented" in line for line in lines)
        assert not any("wrong-wrong" in line for line in lines)
    # What is guessed at the form counts together with it.
    for secret in ("wrong-wrong-wrong-wrong-wrong", SECRETS["publisher"]):
        form = {"token": secret}
        assert ask(closed.url, "POST", "/sign-in", data=form, headers=PAGE, source="127.2.4.1").status_code == 429
    form = {"token": SECRETS["reader"]}
    assert ask(closed.url, "POST", "/sign-in", data=form, headers=PAGE, source="127.2.4.1").status_code == 303


def test_a_proxys_user_who_guesses_is_slowed_and_what_the_proxy_adds_by_itself_is_one_guess(closed: Served) -> None:
    def status(who: str, secret: str) -> int:
        headers = {"x-user": who, "x-roles": "reader", **bearer(secret)}
        return ask(closed.url, "GET", "/reports", headers=headers, source="127.7.0.6").status_code

    guessed = [status("mallory", f"guess-guess-guess-guess-{number}") for number in range(ATTEMPTS_MAX + 2)]
    assert guessed == [200] * ATTEMPTS_MAX + [429] * 2
    assert status("mallory", SECRETS["reader"]) == 200
    assert {status("anna", "what-the-proxy-asked-for") for _ in range(2 * ATTEMPTS_MAX)} == {200}
    lines = [line for line in closed.worker.said().splitlines() if "was presented" in line]
    assert len([line for line in lines if "mallory" in line]) == ATTEMPTS_MAX
    assert len([line for line in lines if "anna" in line]) == 1


def test_a_session_that_nobody_signed_is_told_and_stops_nobody(closed: Served) -> None:
    """It may be a guess at a token, or of a token that is none any more: that browser goes on to the form."""
    for number in range(ATTEMPTS_MAX + 2):
        cookies = {COOKIE: f"4000000000.{number:064x}"}
        assert ask(closed.url, "GET", "/sign-in", cookies=cookies, source="127.2.5.1").status_code == 200
    for _ in range(ATTEMPTS_MAX + 2):
        stale = {COOKIE: f"4000000000.{1:064x}"}
        assert ask(closed.url, "GET", "/reports", cookies=stale, source="127.2.5.2").status_code == 401
        assert ask(closed.url, "GET", "/livez", cookies={COOKIE: "1.x"}, source="127.2.5.3").status_code == 200
    lines = [line for line in closed.worker.said().splitlines() if "was presented" in line]
    assert [sum(f"127.2.5.{last}" in line for line in lines) for last in (1, 2, 3)] == [ATTEMPTS_MAX, 1, 0]
    wrong = bearer("wrong-wrong-wrong-wrong-wrong")
    assert ask(closed.url, "GET", "/reports", headers=wrong, source="127.2.5.1").status_code == 429
    assert ask(closed.url, "GET", "/reports", headers=wrong, source="127.2.5.2").status_code == 401


def test_whatever_is_refused_nobody_fills_the_log(closed: Served) -> None:
    """From one address, ten lines a minute; what a user of the proxy is refused is counted as his."""
    foreign = {"origin": "http://evil.example"}
    port = int(closed.url.rpartition(":")[2])
    session = ask(closed.url, "POST", "/sign-in", data={"token": SECRETS["all"]}, headers=PAGE, source="127.2.2.1")
    cookies = {COOKIE: session.cookies[COOKIE]}
    for _ in range(ATTEMPTS_MAX):
        for path in ("/sign-in", "/sign-out", "/pause"):
            answer = ask(closed.url, "POST", path, headers=foreign, cookies=cookies, source="127.2.2.1")
            assert answer.status_code == 403, path
        for request in (b"GET x HTTP/1.1\r\nhost: a\r\n\r\n", b"\x00 nonsense\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", port), DEADLINE_S, ("127.2.2.1", 0)) as client:
                client.sendall(request * 3)
                assert b" 400 " in client.recv(1000)
    ask(closed.url, "POST", "/pause", headers={**foreign, "x-user": "zoe", "x-roles": "operator"}, source="127.7.0.4")
    lines = closed.worker.said().splitlines()
    assert len([line for line in lines if "a request was refused" in line and "127.2.2.1" in line]) == ATTEMPTS_MAX
    invalid = [line for line in lines if "Invalid HTTP request" in line]
    assert 1 <= len(invalid) <= ATTEMPTS_MAX
    assert all("127.2.2.1" in line for line in invalid)
    assert any("zoe" in line and "another site" in line for line in lines)


def test_another_port_or_scheme_of_a_name_of_ours_is_another_site(redis_pipeline: Pipeline) -> None:
    """What else listens there is not ours; a proxy may ask for another port than the browser did."""
    served = Served(redis_pipeline, **CLOSED, CASELOG_HTTP_HOSTS="caselog.example,10.1.2.3")
    asked = f"127.0.0.1:{served.url.rpartition(':')[2]}"
    for origin, host, status in (
        ("http://caselog.example:9999", "caselog.example", 403),
        ("http://caselog.example:9999", asked, 403),
        ("ftp://10.1.2.3:1", "10.1.2.3:1", 403),
        ("ftp://10.1.2.3", "10.1.2.3", 403),
        ("http://caselog.example:8000", "10.1.2.3:8000", 303),
        ("http://caselog.example:8000", "caselog.example:8000", 303),
        ("https://caselog.example", asked, 303),
        ("http://caselog.example", "caselog.example", 303),
        ("https://caselog.example:x", asked, 403),
        ("null", asked, 403),
    ):
        headers = {**PAGE, "origin": origin, "host": host}
        answer = ask(served.url, "POST", "/sign-in", data={"token": SECRETS["reader"]}, headers=headers)
        assert answer.status_code == status, (origin, host)


@pytest.mark.parametrize("who", ["reader", "bound"])
def test_a_reader_signs_in_where_he_was_refused_and_goes_on_to_what_he_asked_for(closed: Served, who: str) -> None:
    form = ask(closed.url, "GET", "/reports/outcomes?from=2026-01-01&to=2026-02-01&code=A%26B", headers=PAGE)
    assert form.status_code == 401
    assert 'action="../sign-in"' in form.text
    to = re.search(r'name="to" value="([^"]*)"', form.text)
    assert to is not None
    asked = to[1].replace("&amp;", "&")
    assert asked == "/reports/outcomes?from=2026-01-01&to=2026-02-01&code=A%26B"
    signed = ask(closed.url, "POST", "/sign-in", data={"token": SECRETS[who], "to": asked}, headers=PAGE)
    assert (signed.status_code, signed.headers["location"]) == (303, f".{asked}")
    cookies = {COOKIE: signed.cookies[COOKIE]}
    page = ask(closed.url, "GET", asked, cookies=cookies, headers=PAGE)
    assert page.status_code == 200
    assert f"Signed in as <strong>{who}</strong>" in page.text
    assert ask(closed.url, "POST", "/pause", cookies=cookies, data={"why": "x"}).status_code == 403
    home = ask(closed.url, "GET", "/", cookies=cookies, headers=PAGE)
    assert home.status_code == (200 if who == "reader" else 403)
    assert 'id="pause"' not in home.text
    plain = ask(closed.url, "POST", "/sign-in", data={"token": SECRETS[who]}, headers=PAGE)
    assert plain.headers["location"] == ("./?fresh" if who == "reader" else "./reports")


ELSEWHERE: Final = [
    *("//evil.example", "https://evil.example", "\\\\evil.example", "/\\evil.example", "javascript:alert(1)"),
    *("\r\nset-cookie: x=1", "/%2f%2fevil.example", " //evil.example", "\t//evil.example", "../../evil"),
]


def test_signing_in_leads_to_no_other_site(closed: Served) -> None:
    for to in ELSEWHERE:
        signed = ask(closed.url, "POST", "/sign-in", data={"token": SECRETS["reader"], "to": to}, headers=PAGE)
        location = signed.headers["location"]
        assert location.startswith("./"), to
        assert not location.startswith((".//", "./\\")), to
        assert httpx.URL(closed.url + "/sign-in").join(location).host == "127.0.0.1", to
        assert "set-cookie: x" not in str(signed.headers).lower()


def test_whoever_does_not_read_cannot_sign_in(closed: Served) -> None:
    for who in ("publisher", "eraser"):
        answer = ask(closed.url, "POST", "/sign-in", data={"token": SECRETS[who]}, headers=PAGE)
        assert (answer.status_code, COOKIE in answer.cookies) == (403, False)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CASELOG_READING", "opne"),
        ("CASELOG_READING", "OPEN"),
        ("CASELOG_METRICS", "closed"),
        ("CASELOG_HTTP_HOSTS", "http://caselog.example"),
        ("CASELOG_HTTP_HOSTS", "*"),
        ("CASELOG_API_TOKENS", "ann:reader@:ann-ann-ann-ann-ann-ann"),
        ("CASELOG_TRUSTED_PROXY", "user=X-User roles=X-Roles"),
        ("CASELOG_TRUSTED_PROXY", "addresses= user=X-User roles=X-Roles"),
        ("CASELOG_HTTP_HOST", ""),
    ],
)
def test_a_setting_that_would_open_a_closed_installation_by_mistake_is_one_line(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("CASELOG_READING", "token")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    assert str(caught.value).startswith(f"{variable}: ")
    assert "\n" not in str(caught.value)
    assert "ann-" not in str(caught.value)


def test_and_with_it_the_worker_does_not_start(redis_pipeline: Pipeline) -> None:
    half = {"CASELOG_READING": "token", "CASELOG_TRUSTED_PROXY": "user=X-User roles=X-Roles"}
    worker = redis_pipeline.start("status", **half)
    assert worker.process.wait(DEADLINE_S) == 1
    (line,) = worker.said().splitlines()
    assert "CASELOG_TRUSTED_PROXY: addresses= is missing" in line


@pytest.mark.parametrize(
    ("host", "reading", "is_open"),
    [
        ("127.0.0.1", "", True),
        ("localhost", "", True),
        ("::1", "", True),
        ("0.0.0.0", "", False),
        ("::", "", False),
        ("10.1.2.3", "", False),
        ("caselog.example", "", False),
        ("127.0.0.1", "token", False),
        ("0.0.0.0", "open", True),
    ],
)
def test_reading_is_open_on_loopback_and_else_takes_a_token(
    monkeypatch: pytest.MonkeyPatch, host: str, reading: str, *, is_open: bool
) -> None:
    monkeypatch.setenv("CASELOG_HTTP_HOST", host)
    monkeypatch.setenv("CASELOG_READING", reading)
    assert Settings().is_reading_open is is_open
    in_force = {name: value for name, value, *_ in shown(Settings())}["CASELOG_READING"]
    assert in_force == ("open" if is_open else "token")


def test_what_an_event_said_is_shown_to_who_may_read_what_is_personal(closed: Served, database_url: str) -> None:
    """A dead letter's message may repeat it: left out it is absent, and the answer says that something is."""
    engine = make_engine(database_url)
    letter = DeadLetter(reason="rejected", message="SAID-BY-AN-EVENT", raw=b"nonsense", key="accept_case")
    with engine.begin() as db:
        dead_letters.set_aside(db, [letter])
        (group,) = dead_letter_queries.groups(db, Filter())
        detail = {"filter": {"text": "SAID-BY-AN-EVENT", "reason": "rejected"}, "chosen": 1}
        audit.record(db, who="otto", action="dead.requeue", why=None, detail=detail)
    engine.dispose()
    for path in ("/?fresh", "/now", f"/dead/discard?fault={group.fault}", "/audit"):
        for who, is_shown in (("reader", False), ("operator", False), ("personal", True), ("all", True)):
            page = ask(closed.url, "GET", path, headers={**PAGE, **bearer(SECRETS[who])})
            assert page.status_code == 200
            assert ("SAID-BY-AN-EVENT" in page.text) is is_shown, (path, who)
            assert "requeue" in page.text or path != "/audit", who
    mark = ask(closed.url, "GET", f"/dead/requeue?fault={group.fault}", headers=bearer(SECRETS["all"])).json()["mark"]
    form = {"fault": group.fault, "mark": mark, "why": "x"}
    masked = ask(closed.url, "POST", "/dead/requeue", data=form, headers=bearer(SECRETS["operator"])).json()
    assert masked["failed"] == 1
    assert masked["masked"] is True
    assert "message" not in masked["failures"][0]
    (group,) = _groups(database_url)
    mark = ask(closed.url, "GET", f"/dead/requeue?fault={group.fault}", headers=bearer(SECRETS["all"])).json()["mark"]
    form = {"fault": group.fault, "mark": mark, "why": "x"}
    done = ask(closed.url, "POST", "/dead/requeue", data=form, headers={**PAGE, **bearer(SECRETS["operator"])}).text
    assert "without the role personal" in done
    mark = ask(closed.url, "GET", f"/dead/requeue?fault={group.fault}", headers=bearer(SECRETS["all"])).json()["mark"]
    whole = ask(closed.url, "POST", "/dead/requeue", data={**form, "mark": mark}, headers=bearer(SECRETS["all"])).json()
    assert whole["failures"][0]["message"]
    assert "masked" not in whole


def _groups(database_url: str) -> list[dead_letter_queries.Group]:
    engine = make_engine(database_url)
    with engine.connect() as db:
        found = dead_letter_queries.groups(db, Filter())
    engine.dispose()
    return found
