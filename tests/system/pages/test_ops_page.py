"""The ops page as operators use it: in a real browser, live, with and without a token, by keyboard and on a phone."""

from __future__ import annotations

import re
from typing import Final

import pytest
from playwright.sync_api import Browser, expect
from support.processes.browsing import DESKTOP, LIVE_MS, PHONE, Visit, shoot
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.served import Served

HOSTILE: Final = (
    '<img src=x onerror="document.title=1"><script>document.title="owned"</script>\x1b]0;x\x07\u202e' + "x" * 400
)


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


def test_focus_and_what_stands_there_outlive_a_refresh(redis_pipeline: Pipeline, browser: Browser) -> None:
    """Also how far a table is scrolled, where one is: its box is the same element before and after."""
    served = Served(redis_pipeline)
    redis_pipeline.start("recorder")
    redis_pipeline.send(b"nonsense")
    eventually(lambda: redis_pipeline.one("select count(*) from dead_letter") == 1, "a dead letter")
    visit = Visit(browser, served)
    page = visit.sign_in()
    page.set_viewport_size(PHONE)
    page.locator("a[id^=discard]").focus()
    page.evaluate("window.kept = [document.activeElement, document.getElementById('dead-scroll')]")
    redis_pipeline.send(b"{}")  # a row more, above this one or below
    expect(page.locator("#dead tbody tr")).to_have_count(2, timeout=LIVE_MS)
    now = "[document.activeElement, document.getElementById('dead-scroll')]"
    assert page.evaluate(f"{now}.every((one, at) => one === window.kept[at])")
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


@pytest.mark.parametrize("has_script", [True, False])
def test_operators_see_what_waits_for_its_case_and_retry_or_discard_it(
    redis_pipeline: Pipeline, browser: Browser, *, has_script: bool
) -> None:
    """On a phone, too, in the dark, and without JavaScript; what a sender wrote is text."""
    pipeline = redis_pipeline
    served = Served(pipeline)
    pipeline.start("recorder")
    cases = ("HT-1", "HT-1", HOSTILE[:200])
    pipeline.publish(
        [
            event("accept_case", "SPOP", case, id=f"late-{number}", data={"notes": "SECRET"})
            for number, case in enumerate(cases)
        ]
    )
    eventually(lambda: pipeline.one("select count(*) from parked") == 3, "three parked events")
    visit = Visit(browser, served, java_script_enabled=has_script, color_scheme="light" if has_script else "dark")
    page = visit.go("/?fresh")
    expect(page.locator("#parked tbody tr")).to_have_count(2)
    assert page.locator("#parked a").count() == 0  # nobody is signed in
    page = visit.sign_in()
    mode = "light" if has_script else "dark"
    shoot(page, f"parked-{mode}")
    page.set_viewport_size(PHONE)
    for path in (
        "/",
        "/parked/retry?case=HT-1",
        str(page.locator("#parked a[id^=give-up]").last.get_attribute("href")),
    ):
        page = visit.go(f"/{path.lstrip('/')}")
        shoot(page, f"parked-{mode}-phone{path.replace('/', '-')[:16]}")
        if has_script:
            assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path
        assert "SECRET" not in page.content()
        assert not re.search("[\x1b\x07\u202e]", page.content())
    page = visit.go("/?fresh")
    pipeline.publish([created("HT-1")])
    pipeline.recorded(1)
    page.locator("#parked tr", has_text="HT-1").get_by_text("Retry…").click()
    expect(page.locator("h1")).to_have_text("Retry 2 parked events?")
    page.click("#go")
    expect(page.locator("#done")).to_contain_text("Recorded2")
    shoot(page, f"parked-{mode}-retried")
    page.click("#back")
    page.locator("#parked").get_by_text("Discard…").click()
    expect(page.locator("h1")).to_have_text("Discard 1 parked event for ever?")
    page.set_viewport_size(DESKTOP)
    shoot(page, f"parked-{mode}-discard")
    page.fill("#why", "misspelt")
    page.click("#go")
    expect(page.locator("#done")).to_have_text("1 parked event was discarded.")
    page.click("#back")
    expect(page.locator("#parked .empty")).to_be_visible()
    visit.close()
