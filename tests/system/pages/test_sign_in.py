"""A reader in a real browser: asked who he is where reading takes a token, and shown what he may see."""

from __future__ import annotations

import pytest
from playwright.sync_api import Browser, expect
from support.processes.browsing import LIVE_MS, PHONE, Visit, shoot
from support.processes.pipeline import Pipeline, eventually
from support.processes.served import Served

READER = "reader-reader-reader-reader"
BOUND = "bound-bound-bound-bound-bound"
CLOSED = {
    "CASELOG_READING": "token",
    "CASELOG_API_TOKENS": f"rita:reader:{READER},paul:reader@prov-7:{BOUND}",
}


@pytest.mark.parametrize(
    "options",
    [{}, {"viewport": PHONE, "color_scheme": "dark"}, {"java_script_enabled": False}],
    ids=["wide", "phone", "plain"],
)
def test_a_reader_signs_in_reads_and_signs_out(
    redis_pipeline: Pipeline, browser: Browser, options: dict[str, object], request: pytest.FixtureRequest
) -> None:
    """He comes to what he asked for; who he is stands on each page; what he may not see is said not to be shown."""
    pipeline, name = redis_pipeline, request.node.callspec.id
    pipeline.send(b"\xff\x00 nonsense SECRET")
    pipeline.start("recorder")
    eventually(lambda: pipeline.one("select count(*) from dead_letter") == 1, "a dead letter")
    served = Served(pipeline, **CLOSED)
    visit = Visit(browser, served, **options)
    page = visit.go("/reports/outcomes?from=2026-01-01&to=2026-01-31")
    expect(page.locator("h1")).to_have_text("Sign in")
    shoot(page, f"sign-in-{name}")
    page.fill("#token", "wrong-wrong-wrong-wrong")
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("this token is not known")
    shoot(page, f"sign-in-refused-{name}")
    page.fill("#token", READER)
    page.keyboard.press("Enter")
    expect(page.locator("h1")).to_have_text("Outcomes")
    assert page.url.endswith("/reports/outcomes?from=2026-01-01&to=2026-01-31")
    expect(page.locator(".account")).to_contain_text("rita")
    shoot(page, f"report-{name}")
    page.click(".home")
    expect(page.locator("#dead .masked")).to_have_text("not shown without the role personal")
    assert page.locator("#dead a, #pause").count() == 0
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    shoot(page, f"masked-{name}")
    if name == "wide":  # a session that is over shows on a page that asks again by itself, and nothing is lost by it
        visit.context.clear_cookies()
        expect(page.locator("h1")).to_have_text("Sign in", timeout=LIVE_MS)
        page.fill("#token", READER)
        page.click("#go")
        expect(page.locator("#dead .masked")).to_be_visible()
    page.click("#sign-out")
    expect(page.locator("h1")).to_have_text("Sign in")
    visit.go("/")
    expect(page.locator("h1")).to_have_text("Sign in")
    visit.errors = [error for error in visit.errors if "401" not in error and "403" not in error]
    visit.close()


def test_who_is_bound_to_a_provider_comes_to_his_reports(redis_pipeline: Pipeline, browser: Browser) -> None:
    visit = Visit(browser, Served(redis_pipeline, **CLOSED))
    page = visit.go("/sign-in")
    page.fill("#token", BOUND)
    page.click("#go")
    expect(page.locator("h1")).to_have_text("Reports")
    expect(page.locator("ul.cards li")).to_have_count(4)
    page.click(".home")
    expect(page.locator("h1")).to_have_text("Reports")
    shoot(page, "bound")
    visit.go("/audit")
    expect(page.locator("#error")).to_contain_text("one provider's")
    expect(page.locator(".account")).to_contain_text("paul")
    expect(page.locator("h1")).to_have_text("Not shown")
    shoot(page, "bound-refused")
    visit.errors = [error for error in visit.errors if "403" not in error]
    visit.close()
