"""Links of the documents outside docs/ lead to files and headings that exist; `make docs` checks those within it."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    *sorted((ROOT / "data").glob("*.md")),
    *sorted((ROOT / "examples").glob("*/README.md")),
]
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


def test_paths_that_the_documents_of_contributors_name_exist():
    """A file that was renamed is found here, not by the next newcomer."""
    for name in ("CONTRIBUTING.md", "docs/glossary.md", "docs/architecture.md", "docs/models.md", "docs/engine.md"):
        for path in re.findall(r"`([a-z_]+/[\w/]+\.(?:py|c|toml|md|json))`", (ROOT / name).read_text()):
            assert (ROOT / path).exists(), f"{name} names {path}"
