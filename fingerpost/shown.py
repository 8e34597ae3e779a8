"""Escapes text from outside before it is shown: clients choose category names, errors quote files and servers.

One function for each language that it is written into. In Markdown and in pictures, what would be markup is written in
its full-width form, which every renderer leaves alone; escapes differ from one renderer to the next.
"""

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.text import Text

_WIDER = 0xFF00 - 0x20
# What begins a formula in a cell of a spreadsheet.
_FORMULA = ("=", "+", "-", "@")
# What makes a link of plain text.
_LINK = re.compile(r":(?=//)|(?<=www)\.", re.IGNORECASE)


def _wider(characters: str) -> dict[int, int]:
    return {ord(each): ord(each) + _WIDER for each in characters}


_CODE = _wider("`|")
_MARKUP = _wider("`|<[]\\&*~$@")
_TAGS = _wider("<>&")


def visible(text: str) -> str:
    """One line of text, for terminals and logs: what is not printed, line breaks among it, as `\\x1b` or `\\u202e`."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else _escape(ord(each)) for each in text)


def visible_lines(text: str) -> str:
    """As `visible`, but with its line breaks; lines after the first are indented, so that none passes for another's."""
    return "\n  ".join(visible(each) for each in text.split("\n"))


def rich_text(text: str) -> "Text":
    """Text for rich's consoles and tables: `[red]` is shown, not obeyed."""
    from rich.text import Text

    return Text(visible(text))


def markdown_name(name: str) -> str:
    """A name as a code span, in running text, lists and tables alike."""
    return f"`{visible(name).translate(_CODE) or ' '}`"


def markdown_text(text: str) -> str:
    """A sentence that quotes names: no links, pictures, code, tags, cells of tables or mentions come of it."""
    plain = visible(text).translate(_MARKUP)
    return _LINK.sub(lambda found: chr(ord(found.group()) + _WIDER), plain)


def plotly_label(text: str) -> str:
    """Text for a page with Plotly's pictures: without tags, of which Plotly obeys some, and which can end a script."""
    return visible(text).translate(_TAGS)


def matplotlib_label(text: str) -> str:
    """Text for Matplotlib: a dollar is a dollar, not the beginning of a formula."""
    return visible(text).replace("$", r"\$")


def csv_cell(text: str) -> str:
    """Text for a CSV file: no formula for the spreadsheet that opens it."""
    plain = visible(text)
    return f"'{plain}" if plain.startswith(_FORMULA) else plain


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
