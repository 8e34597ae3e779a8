"""The story as one HTML file: the page's panels as they were at the end of each stage, with what it found."""

from pathlib import Path
from typing import Any

from examples.demo.stages import Told
from fingerpost.lake import write_text_atomically
from fingerpost.serving.page.frozen import PANELS, Chapter, frozen_page

_TITLE = "Fingerpost: the demo's story"


def write_report(told: Told, path: Path) -> None:
    """Writes the file, which can be sent as it is; it has whatever the story came to.

    Args:
        told: with the page's numbers of each stage, where the engine gave them.
    """
    write_text_atomically(path, frozen_page(_TITLE, chapters(told)))


def chapters(told: Told) -> list[Chapter]:
    """What came of it first, then stage by stage, then all panels as they were at the end."""
    last = next((page for page in reversed(told.pages) if page), None)
    said = [line for lines in told.said.values() for line in lines]
    found = [Chapter("What came of it", said, last and _marked(told, last), ("traffic",), answers=True)]
    for number, ((plan, begun_s, ended_s), page) in enumerate(zip(told.chapters, told.pages, strict=True), start=1):
        sentences = [plan.now, *told.said.get(plan.title, ()), f"It took {ended_s - begun_s:.0f} s."]
        found.append(Chapter(f"{number}. {plan.title}", sentences, page, (plan.panel,)))
    if last:
        found.append(Chapter("All panels, at the end", (), last, PANELS))
    return found


def _marked(told: Told, page: dict[str, Any]) -> dict[str, Any]:
    """With the beginnings of the stages in the curves."""
    marks = [
        {"at": begun_s, "name": f"{number}. {plan.title}"}
        for number, (plan, begun_s, _) in enumerate(told.chapters, start=1)
    ]
    return {**page, "marks": marks}
