"""Freezes the page into one HTML file: sentences, and panels as they were, drawn by the scripts that draw them live."""

import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from fingerpost.serving.page.routes import page_file

PANELS = ("fleet", "traffic", "predictions", "model", "worth", "pipeline")
_MODULES = ("draw.js", "panels.js", "frozen.js")
# The modules are one script here: what they import of each other is there already.
_IMPORT = re.compile(r"^import .*;$", re.MULTILINE)
_EXPORT = re.compile(r"^export ", re.MULTILINE)
_POLICY = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data: blob:"


@dataclass(frozen=True)
class Chapter:
    """A part of the file.

    Args:
        sentences: what there is to say of it, as text.
        page: numbers of the page, as `/v1/page` gives them; None: there is nothing to show.
        panels: those that are shown, by their ids.
        answers: whether the answers to the four questions are shown too.
    """

    title: str
    sentences: Sequence[str] = ()
    page: Mapping[str, Any] | None = None
    panels: Sequence[str] = ()
    answers: bool = False


def frozen_now(page: Mapping[str, Any]) -> str:
    """All panels of the page as it is."""
    moment = datetime.fromtimestamp(float(page["now"]), UTC).isoformat(timespec="seconds")
    return frozen_page(f"Fingerpost: {page['service']} at {moment}", [Chapter("", (), page, PANELS, True)])


def frozen_page(title: str, chapters: Sequence[Chapter]) -> str:
    """A whole HTML document, which loads and sends nothing; some 5 MB, most of it Plotly's script."""
    told = orjson.dumps([asdict(each) for each in chapters]).decode()
    scripts = "\n".join(_EXPORT.sub("", _IMPORT.sub("", _text(name))) for name in _MODULES)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta http-equiv="content-security-policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><style>{_text("page.css")}</style></head>'
        f"<body><header><h1>{html.escape(title)}</h1></header><main></main>"
        # Text of users is in it: nothing in it may end the element.
        f'<script type="application/json" id="chapters">{told.replace("<", chr(92) + "u003c")}</script>'
        f'<script>{_text("plotly.js")}</script><script type="module">{scripts}</script></body></html>\n'
    )


def _text(name: str) -> str:
    path = page_file(name)
    if path is None:
        raise FileNotFoundError(f"the page's file {name} is not installed")
    return path.read_text(encoding="utf-8")
