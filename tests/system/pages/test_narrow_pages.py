"""The ops pages at a phone's width, with every table filled: nothing is cut or out of sight, by day and by night."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import pytest
from playwright.sync_api import Browser, Page, expect
from support.processes.browsing import DESKTOP, Visit, barriers, shoot
from support.processes.pipeline import Pipeline, created, event, eventually
from support.processes.served import ANNA, Served, bearer

HEIGHT: Final = 812
PHONES: Final = (320, 375)
# Where rows are cards, and where they are rows again: the edges of what the stylesheet tells apart.
WIDTHS: Final = (*PHONES, 640, 641, 960, 961, 1120, 1121, DESKTOP["width"])
LONG: Final = "W" * 250
WHY: Final = "the database moves to the other machine; see https://wiki.example/" + "moving-" * 20
# What is wrong with the page as it stands, in words; `phone` is whether a finger is to hit what can be done.
LOOK: Final = """phone => {
  const said = [];
  const wide = document.scrollingElement.scrollWidth;
  if (wide > innerWidth) said.push(`the page is ${wide} wide`);
  for (const one of document.querySelectorAll('a, button, input, select, summary')) {
    const box = one.getBoundingClientRect();
    const name = one.id || one.textContent.trim();
    if (!box.width || one.matches('.skip, [type=hidden]')) continue;
    if (box.left < 0 || box.right > innerWidth) said.push(`${name} lies from ${box.left} to ${box.right}`);
    const is_small = phone && one.matches('main button, .button, .mend a') && box.height < 44;
    if (is_small) said.push(`${name} is ${box.height} high`);
  }
  for (const box of document.querySelectorAll('.scroll')) {
    if (box.scrollWidth > box.clientWidth) said.push(`${box.id || box.ariaLabel} is scrolled sideways`);
  }
  for (const table of document.querySelectorAll('table')) {
    const heads = [...table.querySelectorAll('thead th')].map(head => head.textContent.trim());
    for (const part of table.querySelectorAll('tr, th, td, tbody, thead')) {
      const display = getComputedStyle(part).display;
      if (!display.startsWith('table') && !part.role) said.push(`a ${part.localName} that is ${display} has no role`);
    }
    for (const row of table.querySelectorAll('tbody tr')) {
      [...row.children].forEach((cell, place) => {
        const label = cell.dataset.label ?? heads[place];
        if (label !== heads[place]) said.push(`a cell of ${heads[place]} is labelled ${label}`);
        if (cell.localName === 'td' && !cell.dataset.label) said.push(`a cell of ${heads[place]} has no label`);
        const is_unseen = getComputedStyle(cell).clipPath !== 'none';
        if (!is_unseen && cell.scrollWidth > cell.clientWidth) said.push(`${label} is cut: ${cell.textContent.trim()}`);
      });
    }
  }
  return [...new Set(said)];
}"""


def fill(pipeline: Pipeline, served: Served) -> None:
    """Dead letters of three faults, events parked for two cases, and actions of anna's in the audit."""
    pipeline.start("recorder")
    pipeline.start("tasks")
    late = [event("accept_case", "SPOP", case, id=f"late-{n}") for n, case in enumerate(("HT-1", "HT-1", LONG[:200]))]
    wrong = [event("accept_case", "SPOB", "HT-2"), event(LONG[:99], "X", LONG[:200], id=LONG, source=f"/{LONG[:200]}")]
    pipeline.publish([created("HT-2"), *late, *wrong])
    pipeline.send(b"\xff\x00 nonsense")
    eventually(lambda: pipeline.one("select count(*) from dead_letter") == 3, "three dead letters")
    eventually(lambda: pipeline.one("select count(*) from parked") == 3, "three parked events")
    for action in ("pause", "resume"):
        assert served.post(f"/{action}", data={"why": WHY}, headers=bearer(ANNA)).is_success


def filled_pages(visit: Visit) -> Iterator[tuple[str, Page]]:
    """Each ops page in turn, signed in, with what it may show: also what was done, and what was refused."""
    page = visit.sign_in()
    for verb, table in (("requeue", "dead"), ("retry", "parked")):
        page = visit.go("/?fresh")
        page.locator(f"#{table} a[id^={verb}]").last.click()
        expect(page.locator("h1")).to_contain_text(verb.title())
        yield verb, page
        page.click("#go")
        expect(page.locator("#done")).to_be_visible()
        yield f"{verb}-done", page
    for link in ("discard", "give-up"):
        page = visit.go("/?fresh")
        page.locator(f"a[id^={link}]").first.click()
        yield link, page
    page = visit.go("/pause")
    yield "pause", page
    page.fill("#why", WHY)
    page.click("#go")
    expect(page.locator("#queues .tag").first).to_have_text("paused")
    assert page.locator("table").count() == 6
    assert all(table.locator("tbody tr").count() for table in page.locator("table").all())
    yield "ops", page
    page.locator("#parked a[id^=retry]").first.click()
    page.click("#go")
    expect(page.locator("#error")).to_contain_text("paused")
    visit.errors.clear()  # the browser says there that it was refused
    yield "refused", page
    for path in ("audit", "resume", "sign-in"):
        yield path, visit.go(f"/{path}")


@pytest.mark.slow
def test_with_every_table_filled_nothing_lies_outside_of_the_window_and_axe_finds_nothing(
    redis_pipeline: Pipeline, browser: Browser
) -> None:
    """In light and dark; what can be done is as large as a finger, and a row that is no table's row says what it is."""
    served = Served(redis_pipeline)
    fill(redis_pipeline, served)
    visit = Visit(browser, served)
    found: list[str] = []
    for name, page in filled_pages(visit):
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": HEIGHT})
            found += [f"{name}, {width}: {fault}" for fault in page.evaluate(LOOK, width in PHONES)]
            if width not in {PHONES[0], DESKTOP["width"]}:
                continue
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                found += [f"{name}, {width}, {scheme}: {fault}" for fault in barriers(page)]
                shoot(page, f"{name}-{width}-{scheme}")
        page.set_viewport_size(DESKTOP)
    assert not found, "\n".join(found)
    visit.close()


def test_a_card_is_a_row_for_those_who_listen_and_its_labels_are_said_once(
    redis_pipeline: Pipeline, browser: Browser
) -> None:
    """As the browser tells a screen reader: tables with rows, heads and cells, at a phone's width as at any other."""
    served = Served(redis_pipeline)
    fill(redis_pipeline, served)
    visit = Visit(browser, served)
    page = visit.sign_in()
    told = {}
    for width in (DESKTOP["width"], PHONES[0]):
        page.set_viewport_size({"width": width, "height": HEIGHT})
        tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
        nodes = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in tree if not node["ignored"]]
        roles = [role for role, _ in nodes]
        told[width] = {role: roles.count(role) for role in ("table", "row", "rowheader", "columnheader", "cell")}
        assert ("table", "Dead letters by fault, the most frequent first") in nodes
        assert [text for role, text in nodes if role == "StaticText"].count("Given up from") == 1
    assert told[PHONES[0]] == told[DESKTOP["width"]]
    assert told[PHONES[0]]["table"] == 6
    assert min(told[PHONES[0]].values()) >= 6
    visit.close()
