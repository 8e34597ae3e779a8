"""Links of the documents outside docs/ lead to files and headings that exist; `make docs` checks those within it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "data").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
ROOMS = "abtest|agent|cli|examples|features|fingerpost|flows|middleware|routing|serving|simulator|tests|training"
FILE = re.compile(rf"`((?:{ROOMS})/[\w/]+\.\w+)`")
EXTRA = re.compile(r"fingerpost\[([a-z, -]+)\]")
LINK = re.compile(r"\]\((?!\w+:)([^)#]*)#?([^)]*)\)")


def anchors(text):
    """The anchors of a page's headings, as the site and GitHub make them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document):
    for path, anchor in LINK.findall(document.read_text()):
        target = (document.parent / path if path else document).resolve()
        assert target.exists(), f"{document.name} links to {path}"
        assert target.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(target.read_text()), f"{document.name} links to {path}#{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_files_that_a_page_names_exist(page):
    """A file that was renamed is found here, not by the next newcomer."""
    absent = [path for path in FILE.findall(page.read_text()) if not (ROOT / path).exists()]
    assert absent == []


def test_extras_that_pages_and_messages_name_exist():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rooms = ROOMS.replace("tests|", "").split("|")
    texts = [*PAGES, *DOCUMENTS, *(path for room in rooms for path in (ROOT / room).rglob("*.py"))]
    named = {name for path in texts for names in EXTRA.findall(path.read_text()) for name in names.split(",")}
    assert {"agent", "router", "gateway"} <= named
    assert named <= set(project["optional-dependencies"])
