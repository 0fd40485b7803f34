"""The project stands alone: what its files cite is in it, every link leads somewhere, and every decision is listed."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DECISIONS = ROOT / "docs" / "decisions"
FOLDERS = ("events", "schema", "workers", "tests", "docs", "benchmarks", "deploy", "examples", ".ci")
SUFFIXES = {".py", ".md", ".yml", ".yaml", ".toml", ".html", ".js", ".css", ".sh", ".mako", ".ini", ""}
# docs/reports.md shows how a report is added, and its readers add this one.
TO_BE_WRITTEN = {"schema/reports/declarations/complaints_made.py"}

_FENCED = re.compile(r"^( *)(```|~~~).*?^\1\2 *$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^()\s]+)")
_PATH = re.compile(rf"(?<![\w/.<>-])(?:{'|'.join(FOLDERS[:-1])})/[\w./-]+\.(?:py|md|yml|toml|json|svg|html|js|css)\b")
_PAGE = re.compile(r"(?<![\w/.<>-])(?:\.\./)*([\w/-]+\.md)\b")
_ANCHOR = re.compile(r"(docs/[\w/-]+\.md)#([\w-]+)")
_HEADING = re.compile(r'(docs/[\w/-]+\.md),? "([^"\n]+)"')
_RULE = re.compile(r"§(\d+(?:\.\d+)?)")
_DECISION = re.compile(r"\bdocs/decisions/(\d+)|\b[Dd]ecisions?\s+(\d+)\b(?:(?:,|\s+to|\s+and)\s+(\d+)\b)?")
_LISTED = re.compile(
    r"^\| (\d{4}) \| \[(.+)\]\((.+)\) \| (in force|replaced)\b[^|]* \| \d{4}-\d\d-\d\d \|$", re.MULTILINE
)


def files() -> Iterator[Path]:
    """Every text that somebody wrote for this project, this file aside: it cites what is not there, to be refused."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        found += (path for path in (ROOT / folder).rglob("*") if path.is_file())
    for path in found:
        written = path.suffix in SUFFIXES and path.parent.name != "__pycache__" and path.name != "requirements.lock"
        if written and not path.is_relative_to(ROOT / "tests" / "data") and path != Path(__file__):
            yield path


@cache
def titles(page: Path) -> tuple[str, ...]:
    return tuple(re.findall(r"^#+ (.+?) *$", _FENCED.sub("", page.read_text()), re.MULTILINE))


@cache
def anchors(page: Path) -> frozenset[str]:
    """As GitHub makes them: lower case, no punctuation, hyphens for blanks, and a number where one comes again."""
    seen: Counter[str] = Counter()
    made = set()
    for title in titles(page):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        made.add(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return frozenset(made)


def broken_links(path: Path, text: str) -> Iterator[str]:
    """The links of a page whose file or whose heading is not there."""
    for target in _LINK.findall(_FENCED.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        page = (path.parent / name).resolve() if name else path
        if not page.exists() or (anchor and anchor not in anchors(page)):
            yield f"link to {target}"


def missing_files(path: Path, text: str) -> Iterator[str]:
    """The files of the project that a text names and that are not there; pages also by their name alone."""
    yield from (name for name in {*_PATH.findall(text)} - TO_BE_WRITTEN if not (ROOT / name).exists())
    places = (ROOT, ROOT / "docs", path.parent)
    yield from (name for name in _PAGE.findall(text) if not any((place / name).exists() for place in places))


def missing_parts(text: str) -> Iterator[str]:
    """The headings of pages, the rules and the decisions that a text names and that are not there."""
    pages = {name: ROOT / name for name in re.findall(r"docs/[\w/-]+\.md", text) if (ROOT / name).exists()}
    for name, anchor in _ANCHOR.findall(text):
        if name in pages and anchor not in anchors(pages[name]):
            yield f"{name}#{anchor}"
    for name, title in _HEADING.findall(text):
        if name in pages and title not in titles(pages[name]):
            yield f'{name} "{title}"'
    numbers = {title.split()[0].rstrip(".") for title in titles(ROOT / "docs" / "rules.md")}
    yield from (f"docs/rules.md §{number}" for number in _RULE.findall(text) if number not in numbers)
    for number in {number for found in _DECISION.findall(text) for number in found if number}:
        if not any(DECISIONS.glob(f"{int(number):04}-*.md")):
            yield f"decision {number}"


def broken_citations(path: Path, text: str) -> list[str]:
    return [*missing_files(path, text), *missing_parts(text)]


def test_nothing_is_cited_that_is_not_there() -> None:
    """Neither a file, nor a page's heading, nor a rule by its number, nor a decision."""
    broken = [
        f"{path.relative_to(ROOT)}: {what}" for path in files() for what in broken_citations(path, path.read_text())
    ]
    assert not broken, "\n".join(broken)


def test_every_link_of_a_page_leads_to_a_file_and_a_heading_that_are_there() -> None:
    pages = [path for path in files() if path.suffix == ".md"]
    assert ROOT / "docs" / "rules.md" in pages
    broken = [f"{path.relative_to(ROOT)}: {what}" for path in pages for what in broken_links(path, path.read_text())]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize(
    "text",
    [
        "(LAWS.md §3.1)",
        'PLAN.md "Promises"',
        "docs/no-such-page.md",
        "events/no_such_module.py",
        "docs/rules.md#no-such-heading",
        'docs/design.md "No such heading"',
        "docs/rules.md §5 and §5.99",
        "docs/decisions/9999",
        "decisions 61 and 9999",
    ],
)
def test_a_citation_of_what_is_not_there_is_found(text: str) -> None:
    assert broken_citations(ROOT / "events" / "folding" / "fold.py", text)


@pytest.mark.parametrize(
    "target", ["no-such-page.md", "rules.md#no-such-heading", "#no-such-heading", "../docs/nowhere/"]
)
def test_a_link_to_what_is_not_there_is_found(target: str) -> None:
    assert list(broken_links(ROOT / "docs" / "design.md", f"[text]({target})"))


def test_the_index_of_decisions_lists_each_once_with_its_title_status_and_date() -> None:
    listed = [
        (number, title, name) for number, title, name, _ in _LISTED.findall((DECISIONS / "README.md").read_text())
    ]
    assert listed == [(page.name[:4], titles(page)[0], page.name) for page in sorted(DECISIONS.glob("[0-9]*.md"))]
