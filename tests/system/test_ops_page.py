"""The ops page as operators use it: in a real browser, live, with and without a token, by keyboard and on a phone."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from pipeline import Pipeline, created, event, eventually
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright
from served import ANNA, Served

HOSTILE: Final = (
    '<img src=x onerror="document.title=1"><script>document.title="owned"</script>\x1b]0;x\x07\u202e' + "x" * 400
)
PHONE: Final[ViewportSize] = {"width": 375, "height": 812}
DESKTOP: Final[ViewportSize] = {"width": 1280, "height": 1000}
CHROMIUM: Final = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip
SHOTS: Final = os.environ.get("CASELOG_TEST_SCREENSHOTS")
LIVE_MS: Final = 30_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = shutil.which("chromium")
    if program is None:
        hint = "there is no chromium on PATH; on Debian: apt-get install chromium"
        if os.environ.get("CASELOG_REQUIRE_SERVICES") == "1":
            pytest.fail(f"CASELOG_REQUIRE_SERVICES=1, but {hint}")
        pytest.skip(hint)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=CHROMIUM)
        yield browser
        browser.close()


class Visit:
    """A browser's window, with what went wrong in it."""

    def __init__(self, browser: Browser, served: Served, **options: Any) -> None:
        self.url = served.url
        self.context: BrowserContext = browser.new_context(viewport=DESKTOP, **options)
        self.context.set_default_timeout(LIVE_MS)
        self.page: Page = self.context.new_page()
        self.errors: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.errors.append(message.text) if message.type == "error" else None)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def go(self, path: str = "/") -> Page:
        self.page.goto(self.url + path)
        return self.page

    def sign_in(self) -> Page:
        page = self.go()
        page.click("#sign-in")
        page.fill("#token", ANNA)
        page.click("#go")
        expect(page.locator("#sign-out")).to_be_visible()
        return page

    def close(self) -> None:
        """Nothing was reported in the console, and nothing was asked of another host."""
        assert self.errors == []
        assert all(url.startswith(self.url) for url in self.requests), self.requests
        self.context.close()


def shoot(page: Page, name: str) -> None:
    if SHOTS:
        page.screenshot(path=Path(SHOTS) / f"{name}.png", full_page=True)


def set_two_faults_aside(pipeline: Pipeline) -> None:
    """One dead letter for a case that is not there, two that cannot be read; a recorder and a tasks worker run."""
    pipeline.publish([event("accept_case", "SPOP", "HT-LATE", source=f"/portal{HOSTILE[:90]}")])
    pipeline.send(b'{"specversion": "1.0", "id": "1", "source": "/x", "type": "case", "data": {"notes": "SECRET"}}')
    pipeline.send(b"\xff\x00 nonsense SECRET")
    eventually(lambda: pipeline.one("select count(*) from dead_letter") == 3, "three dead letters")


def test_operators_watch_a_queue_mend_dead_letters_pause_and_go_on_and_the_audit_says_so(  # noqa: PLR0915 - one story
    redis_pipeline: Pipeline, browser: Browser
) -> None:
    """Each is seen without a reload, and each action after what it would do was shown."""
    pipeline = redis_pipeline
    pipeline.settings["CASELOG_PARKED_GIVE_UP_S"] = "0"
    served = Served(pipeline)
    visit = Visit(browser, served)
    page = visit.go()
    ready = page.locator('[id="queue-caselog.events"] .ready')
    expect(page.locator("#verdict")).to_contain_text("red: Recorder, Tasks")
    expect(ready).to_have_text("0")
    pipeline.publish([created(f"HT-{number}") for number in range(40)], batch_events=1)
    expect(ready).to_have_text("40", timeout=LIVE_MS)
    recorder = pipeline.start("recorder")
    pipeline.start("tasks")
    expect(ready).to_have_text("0", timeout=LIVE_MS)
    expect(page.locator("#tile-recorded .muted")).to_contain_text("40 in the last", timeout=LIVE_MS)
    expect(page.locator("#verdict")).to_have_text("All is well", timeout=LIVE_MS)
    expect(page.locator("#workers tbody tr")).to_have_count(2)

    set_two_faults_aside(pipeline)
    expect(page.locator("#dead tbody tr")).to_have_count(3, timeout=LIVE_MS)
    assert page.locator("#dead a, #pause, button").count() == 0  # nobody is signed in
    shoot(page, "reading")

    page = visit.sign_in()
    page.locator("#dead tr", has_text="unknown_case").get_by_text("Requeue…").click()
    expect(page.locator("h1")).to_have_text("Requeue 1 dead letter?")
    expect(page.locator("table")).to_contain_text("HT-LATE")
    shoot(page, "requeue")
    page.fill("#why", "the case is there now")
    pipeline.publish([created("HT-LATE")])
    pipeline.recorded(41)
    page.click("#go")
    expect(page.locator("#done")).to_contain_text("Recorded1")
    assert pipeline.logs() == 42
    page.click("#back")

    page.locator("#dead tr", has_text="malformed").first.get_by_text("Discard…").click()
    expect(page.locator("h1")).to_contain_text("Discard 1 dead letter for ever?")
    page.fill("#why", "no event at all")
    page.click("#go")
    expect(page.locator("#done")).to_have_text("1 dead letter was discarded.")
    page.click("#back")
    expect(page.locator("#dead tbody tr")).to_have_count(1)

    page.click("#pause")
    page.fill("#why", "the database moves")
    page.keyboard.press("Enter")
    expect(page.locator("#paused")).to_contain_text("anna")
    expect(page.locator("#paused")).to_contain_text("the database moves")
    expect(page.locator("#queues .tag").first).to_have_text("paused", timeout=LIVE_MS)
    eventually(lambda: '"paused"' in recorder.said(), "the recorder is paused")
    shoot(page, "paused")
    page.click("#resume")
    page.click("#go")
    expect(page.locator("#pause")).to_be_visible()
    eventually(lambda: '"resumed"' in recorder.said(), "the recorder goes on")

    trail = page.locator("#audit tbody tr")
    expect(trail).to_have_count(4)
    told = [(row.locator("th").inner_text(), row.locator("td").nth(1).inner_text()) for row in trail.all()]
    assert told == [("anna", "resume"), ("anna", "pause"), ("anna", "dead.discard"), ("anna", "dead.requeue")]
    shoot(page, "light")
    page.click("#audit-more")
    expect(page.locator("tbody tr")).to_have_count(4)
    page.click("#sign-out")
    expect(page.locator("#sign-in")).to_be_visible()
    assert "SECRET" not in page.content()
    visit.close()


def test_what_a_sender_wrote_is_text_and_a_wide_page_stays_within_a_phone(
    redis_pipeline: Pipeline, browser: Browser
) -> None:
    """Also in the dark, and in the fragments that come later."""
    pipeline = redis_pipeline
    served = Served(pipeline)
    pipeline.start("recorder")
    hostile = event(
        HOSTILE[:99], HOSTILE[:99], HOSTILE[:250], source=HOSTILE[:250], id=HOSTILE[:250], data={"notes": "SECRET"}
    )
    pipeline.publish([hostile])
    eventually(lambda: pipeline.one("select count(*) from dead_letter") == 1, "a dead letter")
    visit = Visit(browser, served, color_scheme="dark")
    page = visit.sign_in()
    expect(page.locator("#dead tbody tr")).to_have_count(1)
    shoot(page, "dark")
    page.set_viewport_size(PHONE)
    for path in ("/", "/audit", "/pause", "/resume", "/sign-in", page.locator("a[id^=discard]").get_attribute("href")):
        page = visit.go(f"/{str(path).lstrip('/')}")
        assert page.evaluate("document.documentElement.scrollWidth") <= 375, path
        shoot(page, f"phone{str(path).replace('/', '-')[:9]}")
        assert page.title() != "owned"
        assert "SECRET" not in page.content()
        assert not re.search("[\x1b\x07\u202e]", page.content())
    with page.expect_response("**/now"):
        visit.go()
    assert page.locator("img, #now script").count() == 0
    visit.close()


def test_focus_scroll_and_what_stands_there_outlive_a_refresh(redis_pipeline: Pipeline, browser: Browser) -> None:
    served = Served(redis_pipeline)
    redis_pipeline.start("recorder")
    redis_pipeline.send(b"nonsense")
    eventually(lambda: redis_pipeline.one("select count(*) from dead_letter") == 1, "a dead letter")
    visit = Visit(browser, served)
    page = visit.sign_in()
    page.set_viewport_size(PHONE)
    link = page.locator("a[id^=discard]")
    link.focus()
    page.evaluate("document.getElementById('dead-scroll').scrollLeft = 90; scrollTo(0, 400)")
    before = page.evaluate("[scrollY, document.getElementById('dead-scroll').scrollLeft, document.activeElement.id]")
    page.evaluate("window.kept = document.activeElement")
    redis_pipeline.send(b"{}")  # a row more, above this one or below
    expect(page.locator("#dead tbody tr")).to_have_count(2, timeout=LIVE_MS)
    after = page.evaluate("[scrollY, document.getElementById('dead-scroll').scrollLeft, document.activeElement.id]")
    assert after[1:] == before[1:]
    assert page.evaluate("window.kept === document.activeElement")
    visit.close()


def test_the_page_works_without_javascript(redis_pipeline: Pipeline, browser: Browser) -> None:
    served = Served(redis_pipeline)
    visit = Visit(browser, served, java_script_enabled=False)
    page = visit.sign_in()
    page.click("#pause")
    page.fill("#why", "<b>lunch</b>")
    page.click("#go")
    expect(page.locator("#paused")).to_contain_text("<b>lunch</b>")
    page.click("#resume")
    page.click("#go")
    expect(page.locator("#pause")).to_be_visible()
    visit.close()
