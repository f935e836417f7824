"""The documents: links lead somewhere, every node has its section."""

import json
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
FENCE = re.compile(r"^( *)(```|~~~).*?^\1\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r'\]\(<?([^)\s>]+)>?\)|\b(?:src|href)="([^"]+)"')


def prose(page: Path) -> str:
    """Its text without blocks of code."""
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def headings(page: Path) -> list[str]:
    return re.findall(r"^#+ +(.+?) *$", prose(page), re.MULTILINE)


def anchors(page: Path) -> set[str]:
    """The places in a page that a link can name, as GitHub makes them."""
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings(page))
    named = re.findall(r'<a id="([^"]+)"', prose(page))
    return {heading.replace(" ", "-") for heading in plain} | set(named)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_lead_somewhere(page):
    dead = []
    for link in (first or other for first, other in LINK.findall(prose(page))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, place = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        is_page = target.suffix == ".md" and target.is_file()
        if not target.exists() or (place and is_page and place not in anchors(target)):
            dead.append(link)
    assert not dead


@pytest.fixture(scope="module")
def names() -> dict[str, str]:
    """Node id -> display name; tests/nodes/test_locales.py holds them against the nodes."""
    texts = (ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8")
    return {node: about["display_name"] for node, about in json.loads(texts).items()}


def test_every_node_has_its_section(names):
    """Under its display name, with its id and a picture."""
    text = prose(ROOT / "docs" / "nodes.md")
    parts = re.split(r"^## +(.+?) *$", text, flags=re.MULTILINE)[1:]
    sections = dict(zip(parts[::2], parts[1::2], strict=True))
    assert set(sections) == set(names.values())
    for node, name in names.items():
        assert f"`{node}`" in sections[name]
        assert '<img src="' in sections[name]


def test_the_readme_leads_to_every_node_and_workflow(names):
    text = prose(ROOT / "README.md")
    for name in names.values():
        assert f"(docs/nodes.md#{name.lower().replace(' ', '-')})" in text
    for workflow in (ROOT / "example_workflows").glob("*.json"):
        assert f"`{workflow.stem}`" in text


def test_the_table_of_image_formats_is_current():
    """`python docs/formats.py` writes it."""
    script = runpy.run_path(str(ROOT / "docs" / "formats.py"))
    page = script["PAGE"].read_text(encoding="utf-8")
    assert page.split(script["BEGIN"])[1].split(script["END"])[0] == script["table"]()


def test_pages_name_no_paths_of_a_machine():
    for page in PAGES:
        result = re.findall(r"(?<![\w.])/(?:home|root|Users|work|tmp)/", prose(page))
        assert not result, page.name
