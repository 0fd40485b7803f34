"""The report pages as people use them: in a real browser, without JavaScript, by keyboard, on a phone, in the dark."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Response
from support.processes.browsing import barriers
from support.processes.patience import DEADLINE_S
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.recorded import printed, recorded
from support.servers.free_ports import free_port

from caselog.schema.reports.catalogue import REPORTS
from caselog.workers.producers.simulation import simulate
from caselog.workers.rows.text import label

HOSTILE: Final = '</td><script>document.title="owned"</script><img src="http://x.example/">'
EVENTS: Final = [
    *simulate(120, 7),
    created("AB<b>1", "2025-01-07T10:00:00Z", data={"context": {"category": HOSTILE, "organisation": "=1+1"}}),
    event("accept_case", "SPOP", "AB<b>1", "2025-01-07T11:00:00Z"),
]
FIRST, LAST, NOW = "2025-01-06", "2025-02-28", "2025-06-01T00:00:00Z"
PHONE: Final = {"width": 375, "height": 812}
DESKTOP: Final = {"width": 1280, "height": 900}
# WCAG 2.2, 1.4.3: text of normal size.
LEGIBLE: Final = 4.5


@pytest.fixture(scope="module")
def told(make_database: Callable[[str], str], template: str) -> Iterator[str]:
    with recorded(make_database, template, EVENTS) as database_url:
        yield database_url


@pytest.fixture(scope="module")
def site(told: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a status worker on that database; it needs no broker for this."""
    port = free_port()
    away = "redis://127.0.0.1:1/0"
    pipeline = Pipeline(tmp_path_factory.mktemp("status"), told, away, away)
    worker = pipeline.start("status", CASELOG_HTTP_PORT=str(port))
    url = f"http://127.0.0.1:{port}"

    def answers() -> bool:
        assert worker.is_running(), worker.said()
        try:
            return httpx.get(f"{url}/livez", timeout=DEADLINE_S).status_code == 200
        except httpx.TransportError:
            return False

    eventually(answers, "the status worker answers")
    yield url
    pipeline.close()


class Visit:
    """A page in a browser of its own, with what it complained of and what it asked others for."""

    def __init__(self, context: BrowserContext, site: str) -> None:
        self.site = site
        self.said: list[str] = []
        self.elsewhere: list[str] = []
        self.page: Page = context.new_page()
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", self._asked)
        self.page.on("response", self._answered)

    def _asked(self, request: Any) -> None:
        if not request.url.startswith(f"{self.site}/"):
            self.elsewhere.append(request.url)

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            self.said.append(f"{response.status} {response.url}")

    def go(self, path: str) -> Page:
        self.page.goto(self.site + path)
        return self.page

    def choose(self, name: str) -> None:
        """Through the form, as a person does."""
        self.page.select_option("#report", name)
        self.page.fill("#from", FIRST)
        self.page.fill("#to", LAST)
        if not self.page.is_visible("#now"):
            self.page.click("summary:text('More')")
        self.page.fill("#now", NOW)
        with self.page.expect_navigation():
            self.page.click("button:text('Show')")

    def rows(self, part: str = "tbody") -> list[list[str]]:
        """The cells' texts as they are shown, and the times of moments as programs read them."""
        script = """rows => rows.map(row => [...row.querySelectorAll('td')].map(
            cell => cell.querySelector('time')?.getAttribute('datetime') ?? cell.innerText))"""
        found: list[list[str]] = self.page.eval_on_selector_all(f"{part} tr", script)
        return found


Visitor = Callable[..., Visit]


@pytest.fixture
def visit(browser: Browser, site: str) -> Iterator[Visitor]:
    """Opens pages without JavaScript; at the end, none complained, and none asked anyone else for anything."""
    visits: list[tuple[Visit, BrowserContext]] = []

    def begin(**settings: Any) -> Visit:
        chosen: dict[str, Any] = {"viewport": DESKTOP, "java_script_enabled": False} | settings
        context = browser.new_context(**chosen)
        visits.append((Visit(context, site), context))
        return visits[-1][0]

    yield begin
    for one, context in visits:
        context.close()
        assert one.said == []
        assert one.elsewhere == []


def shown(value: Any) -> str:
    """A value of JSON lines as the page is to show it: this and workers/web/reports/cells.py were written apart."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.2f}" if isinstance(value, float) else value


def test_each_report_through_the_form_shows_what_the_command_line_prints(
    visit: Visitor, told: str, tmp_path: Path
) -> None:
    """Row by row, number by number; the chart's bars and the totals are of the same rows."""
    one = visit()
    one.go("/reports")
    one.page.click("a:text-is('Outcomes')")
    seen = set()
    for name, report in REPORTS.items():
        one.choose(name)
        asked = ("--from", FIRST, "--to", LAST, "--now", NOW, "--format", "jsonl")
        expected = [json.loads(line) for line in printed(told, "report", name, *asked).splitlines()]
        assert expected, name
        assert one.page.inner_text("h1") == label(name)
        heads = one.page.eval_on_selector_all("thead th", "heads => heads.map(head => head.innerText)")
        assert [head.partition("\n")[0] for head in heads] == [label(column) for column in expected[0]]
        assert [head.partition("\n")[2] for head in heads] == [c.unit and f"({c.unit})" for c in report.columns]
        rows = one.rows()
        assert len(rows) == min(len(expected), 500), name
        for found, row in zip(rows, expected, strict=False):
            assert found == [shown(value) for value in row.values()], name
        main = report.main_measure
        measured = [1 if main is None else row[main.name] for row in expected]
        if main is not None:
            assert one.rows("tfoot")[0][0] == f"{sum(measured):,}", name
        bars = one.page.eval_on_selector_all(".chart rect title", "titles => titles.map(title => title.textContent)")
        numbers = [int(re.search(r": ([\d,]+) ", bar)[1].replace(",", "")) for bar in bars]  # type: ignore[index]
        assert sum(numbers) == sum(measured), name
        seen.add(name)
        one.page.screenshot(path=tmp_path / f"{name}.png")
    assert len(seen) == 13


def test_a_condition_and_a_period_are_chosen_in_the_form_and_reach_the_download(visit: Visitor, told: str) -> None:
    one = visit()
    one.go("/reports/outcomes")
    one.choose("outcomes")
    one.page.select_option("#where-key", label="accept_case")
    one.page.select_option("#where-provider", label="prov-3")
    one.page.select_option("#by", label="Month")
    with one.page.expect_navigation():
        one.page.click("button:text('Show')")
    asked = ("--from", FIRST, "--to", LAST, "--where", "key=accept_case", "--where", "provider=prov-3", "--by", "month")
    expected = [json.loads(x) for x in printed(told, "report", "outcomes", *asked, "--format", "jsonl").splitlines()]
    assert one.rows() == [[shown(value) for value in row.values()] for row in expected]
    assert one.page.input_value("#where-provider") == "provider=prov-3"
    with one.page.expect_download() as download:
        one.page.click("a:text('Download CSV')")
    assert download.value.suggested_filename == f"outcomes_{FIRST}_{LAST}.csv"
    assert download.value.path().read_bytes() == printed(told, "report", "outcomes", *asked, "--format", "csv")


def test_what_a_case_says_is_shown_and_never_run(visit: Visitor) -> None:
    """Also where JavaScript is on: the page has none, and no policy that would let any in."""
    one = visit(java_script_enabled=True)
    one.go(f"/reports/case_volume?from={FIRST}&to={LAST}")
    assert HOSTILE in [row[3] for row in one.rows()]
    one.page.select_option("#where-category", label=HOSTILE)
    with one.page.expect_navigation():
        one.page.click("button:text('Show')")
    assert [row[3] for row in one.rows()] == [HOSTILE]
    assert one.page.title() == "Case volume · caselog"
    assert one.page.locator("script").count() == 0


def test_the_form_is_filled_in_and_sent_with_the_keyboard_alone(visit: Visitor) -> None:
    """The first stop leads past the navigation; each field is a stop, in the order of the page, with a visible ring."""
    one = visit()
    page = one.go("/reports/outcomes")
    page.keyboard.press("Tab")
    skip = page.locator(".skip")
    assert page.evaluate("document.activeElement.className") == "skip"
    eventually(lambda: skip.evaluate("link => link.getBoundingClientRect().top") >= 0, "the link is seen")
    page.keyboard.press("Enter")
    assert page.url.endswith("#content")
    stops: list[str] = []
    while "button" not in stops:
        page.keyboard.press("Tab")
        stop = page.evaluate("document.activeElement.id || document.activeElement.localName")
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", stop
        stops += [stop] if stop not in stops[-1:] else []  # a date has a stop for each of its parts
        if stop == "report":
            page.keyboard.type("Callback p")
    fields = ["report", "from", "to", "by", *(f"where-{c.name}" for c in REPORTS["outcomes"].dimensions[1:])]
    assert stops == [*fields, "summary", "button"]
    with page.expect_navigation():
        page.keyboard.press("Enter")
    assert page.inner_text("h1") == "Callback progression"


def test_every_field_has_a_label_and_every_table_its_heads(visit: Visitor) -> None:
    one = visit()
    page = one.go(f"/reports/provider_performance?from={FIRST}&to={LAST}&by=week")
    for field in page.locator("form input, form select").all():
        assert page.locator(f"label[for='{field.get_attribute('id')}']").count() == 1
    assert page.locator("table caption").inner_text() == (
        "Provider performance, 6 January 2025 to 28 February 2025, by week"
    )
    assert page.locator("thead th[scope=col]").count() == page.locator("thead th").count() == 10
    assert page.locator("tfoot th[scope=row]").count() == 1
    region = page.locator(".scroll")
    assert (region.get_attribute("role"), region.get_attribute("tabindex")) == ("region", "0")
    chart = page.locator("svg[role=img]")
    assert chart.locator("title").first.text_content() == "Assigned per week"
    assert str(chart.locator("desc").text_content()).startswith("Bars from week of 6 January 2025")
    assert page.locator("html").get_attribute("lang") == "en"
    edge = page.locator("td.number").first.evaluate("cell => getComputedStyle(cell).textAlign")
    assert edge == "right"


@pytest.mark.parametrize("path", ["/", "/reports", *(f"/reports/{name}?from={FIRST}&to={LAST}" for name in REPORTS)])
def test_no_page_is_wider_than_a_phone(visit: Visitor, tmp_path: Path, path: str) -> None:
    """A wide table is scrolled in a region of its own, which says so and takes the keyboard."""
    one = visit(viewport=PHONE)
    page = one.go(path)
    page.screenshot(path=tmp_path / "phone.png")
    for width in (320, PHONE["width"]):
        page.set_viewport_size({"width": width, "height": PHONE["height"]})
        assert page.evaluate("document.scrollingElement.scrollWidth") <= width
        edges = """[...document.querySelectorAll('h1, form, button, select, input, summary, .downloads a')].flatMap(
            one => [one.getBoundingClientRect().right, one.scrollWidth])"""
        assert max(page.evaluate(edges), default=0) <= width
        for day in page.locator("input[type=date]").all():
            assert day.evaluate("day => day.clientWidth") >= 128  # 31/12/2026 and the button beside it
    if "?" in path:
        region = page.locator(".scroll")
        assert region.evaluate("region => region.scrollWidth > region.clientWidth")
        assert page.locator(".sideways").is_visible()
        region.focus()
        page.keyboard.press("ArrowRight")
        eventually(lambda: region.evaluate("region => region.scrollLeft") > 0, "the table is scrolled by a key")


@pytest.mark.parametrize("width", [320, 1280])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_in_the_reports(visit: Visitor, scheme: str, width: int) -> None:
    one = visit(color_scheme=scheme, viewport={"width": width, "height": 900}, java_script_enabled=True)
    for path in ("/reports", f"/reports/outcomes?from={FIRST}&to={LAST}", "/reports/complaints?from=2001-01-01"):
        found = barriers(one.go(path))
        assert not found, "\n".join(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_is_legible_by_day_and_by_night(visit: Visitor, tmp_path: Path, scheme: str) -> None:
    one = visit(color_scheme=scheme)
    page = one.go(f"/reports/outcomes?from={FIRST}&to={LAST}")
    page.screenshot(path=tmp_path / f"{scheme}.png", full_page=True)
    ground = colour(page, "body", "backgroundColor")
    assert (luminance(ground) < 0.05) == (scheme == "dark")
    raised = colour(page, ".ask", "backgroundColor")
    for selector, behind in {
        "body": ground, ".lead": ground, ".above a": ground, "td": ground, ".count": ground, ".ask label": raised,
        ".ask .hint": raised, "summary": raised, "thead th": raised, "thead .unit": raised, "input": ground,
    }.items():  # fmt: skip
        assert contrast(colour(page, selector, "color"), behind) >= LEGIBLE, selector
    assert contrast(colour(page, "button", "color"), colour(page, "button", "backgroundColor")) >= LEGIBLE
    assert contrast(colour(page, ".chart text", "fill"), ground) >= LEGIBLE
    assert contrast(colour(page, ".chart rect", "fill"), ground) >= 3  # WCAG 2.2, 1.4.11
    assert contrast(colour(page, "input", "borderTopColor"), raised) >= 3


def colour(page: Page, selector: str, name: str) -> tuple[float, ...]:
    said = page.locator(selector).first.evaluate(f"element => getComputedStyle(element).{name}")
    return tuple(float(number) for number in re.findall(r"[\d.]+", said)[:3])


def luminance(rgb: tuple[float, ...]) -> float:
    """Of WCAG 2.2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (value / 255 for value in rgb)]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_with_nothing_to_show_and_with_a_wrong_question_the_form_is_still_there(visit: Visitor, site: str) -> None:
    one = visit()
    page = one.go("/reports/complaints?from=2001-01-01&to=2001-01-31")
    assert page.inner_text(".empty") == "There is nothing in these days."
    assert page.is_visible("#report")
    page = one.go("/reports/outcomes?from=2001-02-01&to=2001-01-31")
    assert "swap them" in page.inner_text("[role=alert]")
    assert page.input_value("#from") == "2001-02-01"
    # The browser writes the status to its console, as it must.
    assert all(f"{site}/reports/outcomes" in said or "400" in said for said in one.said)
    one.said.clear()
